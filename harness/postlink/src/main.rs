//! Last step of the filter's build: `bellwether-postlink IN.wasm OUT.wasm [lite]`.
//!
//! The SDK exports every callback of the ABI, and Envoy calls every callback that is exported: it would enter the VM for each
//! chunk of a streamed answer, which nobody reads. So the exports that the filter has no use for are dropped, with the code
//! that only they reached, and the names of our own functions that remain (a trap prints them) are demangled, which also makes
//! them shorter.
//!
//! The lite product, which is built with the feature `lite`, also lacks the callbacks of request bodies and trailers.

use anyhow::{Context, Result, bail};

/// What Envoy calls: contexts, configuration, ticks, headers, ends of contexts, answers to calls of our own; and memory.
const KEPT: [&str; 17] = [
    "_initialize",
    "malloc",
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_http_call_response",
    "proxy_on_memory_allocate",
    "proxy_on_request_body",
    "proxy_on_request_headers",
    "proxy_on_request_trailers",
    "proxy_on_response_headers",
    "proxy_on_tick",
    "proxy_on_vm_start",
    "__indirect_function_table",
    "__wasm_call_ctors",
];

/// What the lite product lacks.
const BODIES: [&str; 2] = ["proxy_on_request_body", "proxy_on_request_trailers"];

/// Without these the module is not a filter; a renamed export in a later SDK must not go unnoticed.
const NEEDED: [&str; 6] = [
    "_initialize",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_delete",
    "proxy_on_request_headers",
    "proxy_on_response_headers",
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let (input, output, lite) = match arguments.as_slice() {
        [_, input, output] => (input, output, false),
        [_, input, output, product] if product == "lite" => (input, output, true),
        _ => bail!("usage: bellwether-postlink IN.wasm OUT.wasm [lite]"),
    };
    let mut module = walrus::ModuleConfig::new()
        .generate_producers_section(false)
        .parse_file(input)
        .with_context(|| format!("cannot read {input}"))?;

    let drops = |name: &str| !KEPT.contains(&name) || (lite && BODIES.contains(&name));
    let dropped: Vec<_> = module.exports.iter().filter(|e| drops(&e.name)).map(|e| e.id()).collect();
    for export in &dropped {
        module.exports.delete(*export);
    }
    let needed = NEEDED.into_iter().chain(BODIES.into_iter().filter(|_| !lite));
    for name in needed {
        if !module.exports.iter().any(|export| export.name == name) {
            bail!("{input} does not export {name}: this is not the filter");
        }
    }
    walrus::passes::gc::run(&mut module);
    for function in module.funcs.iter_mut() {
        if let Some(name) = &function.name {
            // The alternate form leaves out the hash.
            let name = format!("{:#}", rustc_demangle::demangle(name));
            // A backtrace goes through our own functions; those of the libraries would double the section of names.
            function.name = name.contains("bellwether").then(|| shortened(&name));
        }
    }
    let bytes = module.emit_wasm();
    std::fs::write(output, &bytes).with_context(|| format!("cannot write {output}"))?;
    let before = std::fs::metadata(input)?.len();
    println!("{output}: {} bytes (linked: {before}), {} exports dropped", bytes.len(), dropped.len());
    Ok(())
}

/// A backtrace needs to say which function, not where its types come from: `State::judge` of
/// `<impl bellwether::engine::state::State>::judge::<..>`. Whole names would be a sixth of the module.
fn shortened(name: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0u32;
    // Of `<A as B>::f` the A is kept, other angle brackets and what is in them are not.
    let name = name.strip_prefix('<').map_or(name.to_owned(), |rest| rest.replacen(" as ", "<", 1));
    for c in name.chars() {
        match c {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let segments: Vec<&str> = plain.split("::").filter(|segment| !segment.is_empty()).collect();
    let last = segments.len().saturating_sub(2);
    segments[last..].join("::").chars().take(24).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_say_which_function() {
        for (name, short) in [
            (
                "bellwether::engine::state::judge::<impl bellwether::engine::state::State>::flush",
                "judge::flush",
            ),
            ("<bellwether::filter::Root as proxy_wasm::traits::RootContext>::on_tick", "Root::on_tick"),
            ("hashbrown::raw::RawTable<T,A>::reserve_rehash", "RawTable::reserve_rehash"),
            ("core::str::slice_error_fail_rt", "str::slice_error_fail_rt"),
            ("proxy_on_delete", "proxy_on_delete"),
            ("", ""),
        ] {
            assert_eq!(super::shortened(name), short);
        }
    }
}
