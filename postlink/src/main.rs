//! Last step of the filter's build: `bellwether-postlink IN.wasm OUT.wasm`.
//!
//! The SDK exports every callback of the ABI, and Envoy calls every callback that is exported: it would enter the VM for each
//! chunk of a streamed answer, which nobody reads. So the exports that the filter has no use for are dropped, with the code
//! that only they reached, and the names of the remaining functions (a trap prints them) are demangled, which also makes
//! them shorter.

use anyhow::{Context, Result, bail};

/// What Envoy calls: contexts, configuration, ticks, headers, ends of streams, answers to calls of our own; and memory.
const KEPT: [&str; 17] = [
    "_initialize",
    "malloc",
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_done",
    "proxy_on_http_call_response",
    "proxy_on_log",
    "proxy_on_memory_allocate",
    "proxy_on_request_headers",
    "proxy_on_response_headers",
    "proxy_on_tick",
    "proxy_on_vm_start",
    "__indirect_function_table",
    "__wasm_call_ctors",
];

/// Without these the module is not a filter; a renamed export in a later SDK must not go unnoticed.
const NEEDED: [&str; 6] = [
    "_initialize",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_log",
    "proxy_on_request_headers",
    "proxy_on_response_headers",
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, input, output] = arguments.as_slice() else {
        bail!("usage: bellwether-postlink IN.wasm OUT.wasm")
    };
    let mut module = walrus::ModuleConfig::new()
        .generate_producers_section(false)
        .parse_file(input)
        .with_context(|| format!("cannot read {input}"))?;

    let dropped: Vec<_> =
        module.exports.iter().filter(|e| !KEPT.contains(&e.name.as_str())).map(|e| e.id()).collect();
    for export in &dropped {
        module.exports.delete(*export);
    }
    for name in NEEDED {
        if !module.exports.iter().any(|export| export.name == name) {
            bail!("{input} does not export {name}: this is not the filter");
        }
    }
    walrus::passes::gc::run(&mut module);
    for function in module.funcs.iter_mut() {
        if let Some(name) = &function.name {
            // The alternate form leaves out the hash.
            function.name = Some(shortened(&format!("{:#}", rustc_demangle::demangle(name))));
        }
    }
    let bytes = module.emit_wasm();
    std::fs::write(output, &bytes).with_context(|| format!("cannot write {output}"))?;
    let before = std::fs::metadata(input)?.len();
    println!("{output}: {} bytes (linked: {before}), {} exports dropped", bytes.len(), dropped.len());
    Ok(())
}

/// A backtrace needs to say which function, not all its type arguments.
fn shortened(name: &str) -> String {
    name.chars().take(60).collect()
}
