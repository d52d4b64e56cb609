//! The layout of the repository: which room may import which, and how large files and functions may be.
//!
//! Each rule is a function from source text to violations, so that a test can also hold it against a text that breaks it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, File, GenericArgument, Ident, PathArguments, Signature, UseTree};

/// Lines of a file up to its tests.
const FILE_MAX: usize = 500;

/// Lines of a function, from `fn` to the closing brace.
const FUNCTION_MAX: usize = 70;

/// Parameters of a function, `self` apart.
const PARAMETERS_MAX: usize = 5;

/// The top level of the repository, dot files apart. `cli` may be missing.
const TOP_LEVEL: [&str; 12] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "cli",
    "docs",
    "envoy",
    "harness",
    "rust-toolchain.toml",
    "src",
    "tests",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder with one of these extensions, by their path from the root, in order.
fn files(folder: &str, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extensions.iter().any(|e| extension == *e)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// The Rust files of the filter, without the files of its tests: `src/testing.rs`, all names that end with `tests`, and the folders
/// of this name.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = files("src", &["rs"]);
    found.retain(|(path, _)| {
        let name = path.file_stem().unwrap().to_string_lossy();
        let in_tests = path.parent().is_some_and(|folder| folder.ends_with("tests"));
        !name.ends_with("tests") && !in_tests && path != Path::new("src/testing.rs")
    });
    assert!(found.len() > 40, "{} files were read", found.len());
    found
}

fn parse(path: &Path, text: &str) -> File {
    syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<Ident>().is_ok_and(|name| name == "test")
    })
}

fn line(spanned: &impl Spanned) -> usize {
    spanned.span().start().line
}

/// Fails with all violations, one a line.
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

/// The rooms that `lib.rs` declares, in its order; modules that only tests have are none.
fn rooms(lib: &str) -> Vec<String> {
    let file = parse(Path::new("src/lib.rs"), lib);
    let modules = file.items.into_iter().filter_map(|item| match item {
        syn::Item::Mod(module) if !is_test(&module.attrs) => Some(module.ident.to_string()),
        _ => None,
    });
    modules.collect()
}

/// The modules of a file, from the crate on: `src/a/b.rs` is in `a::b`.
fn module_of(path: &Path) -> Vec<String> {
    let parts: Vec<String> =
        path.with_extension("").iter().skip(1).map(|part| part.to_string_lossy().into_owned()).collect();
    if parts == ["lib"] { Vec::new() } else { parts }
}

struct Function {
    line: usize,
    name: String,
    length: usize,
    parameters: usize,
}

/// A walk over the code of a file that is not a test.
struct Walk<'a> {
    path: &'a Path,
    /// The module that the walk is in.
    module: Vec<String>,
    /// Each room that is named, and the line.
    imports: Vec<(usize, String)>,
    /// The lines that could hide an import: another name for the crate's root, all of its names at once, or a file of another room.
    hidden: Vec<usize>,
    /// Each function, with its line, its length and the number of its parameters, `self` apart.
    functions: Vec<Function>,
    /// The lines that have an option of an option.
    nested_options: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn over(path: &'a Path, text: &str) -> Walk<'a> {
        let file = parse(path, text);
        let mut walk = Walk {
            path,
            module: module_of(path),
            imports: Vec::new(),
            hidden: Vec::new(),
            functions: Vec::new(),
            nested_options: Vec::new(),
        };
        walk.visit_file(&file);
        walk
    }

    /// The part of a path that follows the crate's root; `None` if the path does not lead there.
    fn below_root<'s>(&self, segments: &'s [String]) -> Option<&'s [String]> {
        match segments.split_first()? {
            (first, rest) if first == "crate" => Some(rest),
            (first, rest) if first == "self" && !self.module.is_empty() => self.below_root(rest),
            (first, _) if first == "super" => {
                let up = segments.iter().take_while(|segment| *segment == "super").count();
                (up == self.module.len()).then(|| segments.get(up..)).flatten()
            }
            _ => None,
        }
    }

    /// Notes the room that a path from `crate` or up from `super` leads to.
    fn note_path(&mut self, line: usize, segments: &[String]) {
        let room = self.below_root(segments).and_then(|rest| rest.first()).cloned();
        self.imports.extend(room.map(|room| (line, room)));
    }

    /// Notes a `use` that gives a name to the crate's root itself.
    fn note_root(&mut self, line: usize, segments: &[String]) {
        let is_self = |rest: &[String]| rest.iter().all(|segment| segment == "self");
        if self.below_root(segments).is_some_and(is_self) {
            self.hidden.push(line);
        }
    }

    fn note_use(&mut self, prefix: &[String], tree: &UseTree) {
        let with = |name: &Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.note_use(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.note_path(line(name), &with(&name.ident)),
            UseTree::Rename(rename) => {
                self.note_root(line(rename), &with(&rename.ident));
                self.note_path(line(rename), &with(&rename.ident));
            }
            UseTree::Glob(glob) => {
                self.note_root(line(glob), prefix);
                self.note_path(line(glob), prefix);
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_use(prefix, tree)),
        }
    }

    /// Notes the paths in the arguments of a macro, which are tokens and nothing more.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let name = |at: usize| match tokens.get(at) {
            Some(TokenTree::Ident(name)) => Some(name.to_string()),
            _ => None,
        };
        let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.note_tokens(group.stream()),
                TokenTree::Ident(first) if !at.checked_sub(1).is_some_and(colon) => {
                    let mut segments = vec![first.to_string()];
                    let mut next = at;
                    while colon(next + 1) && colon(next + 2) {
                        let Some(segment) = name(next + 3) else { break };
                        segments.push(segment);
                        next += 3;
                    }
                    self.note_path(line(first), &segments);
                }
                _ => {}
            }
        }
    }

    fn note_function(&mut self, signature: &Signature, body: &Block) {
        let begins = line(&signature.fn_token);
        let length = body.brace_token.span.close().end().line + 1 - begins;
        let parameters =
            signature.inputs.iter().filter(|input| matches!(input, syn::FnArg::Typed(_))).count();
        self.functions.push(Function { line: begins, name: signature.ident.to_string(), length, parameters });
    }

    fn is_nested_option(path: &syn::Path) -> bool {
        let argument = |path: &syn::Path| match &path.segments.last()?.arguments {
            PathArguments::AngleBracketed(arguments) => arguments.args.first().cloned(),
            _ => None,
        };
        let is_option =
            |path: &syn::Path| path.segments.last().is_some_and(|segment| segment.ident == "Option");
        let inner = argument(path);
        let inner =
            matches!(&inner, Some(GenericArgument::Type(syn::Type::Path(inner))) if is_option(&inner.path));
        is_option(path) && inner
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test(&module.attrs) {
            self.module.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.module.pop();
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !is_test(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if !is_test(&function.attrs) {
            self.note_function(&function.sig, &function.block);
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            self.note_function(&function.sig, &function.block);
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.note_function(&function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.note_use(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note_path(line(path), &segments);
        if Self::is_nested_option(path) {
            self.nested_options.push(line(path));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if call.path.is_ident("include") {
            self.hidden.push(line(&call.path));
        }
        self.note_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        if item.ident == "self" {
            self.hidden.push(line(item));
        }
    }

    // `pub(in crate::engine)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    /// An attribute may name another file for a module, and a path in a string: `#[serde(with = "crate::report::wire")]`.
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("path") {
            self.hidden.push(line(attribute));
        }
        if let syn::Meta::List(list) = &attribute.meta {
            for path in list.tokens.to_string().split('"').skip(1).step_by(2) {
                let segments: Vec<String> =
                    path.split("::").map(|segment| segment.trim().to_owned()).collect();
                self.note_path(line(attribute), &segments);
            }
        }
    }
}

/// The imports of a file that lead to a room below its own, or to no room, and the lines that could hide one.
fn upward_imports(rooms: &[String], path: &Path, text: &str) -> Vec<String> {
    let position = |room: &str| rooms.iter().position(|known| known == room);
    let walk = Walk::over(path, text);
    let Some(room) = module_of(path).into_iter().next() else { return Vec::new() };
    let own = position(&room);
    let wrong = walk.imports.into_iter().filter(|(_, import)| match (own, position(import)) {
        (Some(own), Some(imported)) => imported > own,
        _ => true,
    });
    let wrong = wrong.map(|(line, import)| {
        (line, format!("imports `{import}`, which does not stand above it in src/lib.rs"))
    });
    let hidden =
        walk.hidden.into_iter().map(|line| (line, "hides the rooms that it imports: name them".to_owned()));
    let violations: BTreeSet<(usize, String)> = wrong.chain(hidden).collect();
    violations.into_iter().map(|(line, text)| format!("{}:{line}: `{room}` {text}", path.display())).collect()
}

/// The violation of a file that is too long before its tests.
fn long_file(path: &Path, text: &str) -> Option<String> {
    let lines = match path.extension() {
        Some(extension) if extension == "rs" => {
            let tests = parse(path, text).items.into_iter().find_map(|item| match item {
                syn::Item::Mod(module) if is_test(&module.attrs) => module.attrs.first().map(line),
                _ => None,
            });
            tests.map_or(text.lines().count(), |line| line - 1)
        }
        _ => text.lines().count(),
    };
    (lines > FILE_MAX).then(|| format!("{}: {lines} lines, at most {FILE_MAX}", path.display()))
}

fn long_functions(path: &Path, text: &str) -> Vec<String> {
    let walk = Walk::over(path, text);
    let long = walk.functions.into_iter().filter(|function| function.length > FUNCTION_MAX);
    long.map(|Function { line, name, length, .. }| {
        format!("{}:{line}: `{name}` has {length} lines, at most {FUNCTION_MAX}", walk.path.display())
    })
    .collect()
}

fn wide_functions(path: &Path, text: &str) -> Vec<String> {
    let walk = Walk::over(path, text);
    let wide = walk.functions.into_iter().filter(|function| function.parameters > PARAMETERS_MAX);
    wide.map(|Function { line, name, parameters, .. }| {
        format!(
            "{}:{line}: `{name}` has {parameters} parameters, at most {PARAMETERS_MAX}",
            walk.path.display()
        )
    })
    .collect()
}

fn nested_options(path: &Path, text: &str) -> Vec<String> {
    let walk = Walk::over(path, text);
    let lines = walk.nested_options.into_iter();
    lines.map(|line| format!("{}:{line}: an option of an option", walk.path.display())).collect()
}

#[test]
fn each_room_imports_only_rooms_above_it_in_lib_rs() {
    let rooms = rooms(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    assert!(rooms.len() > 15, "{rooms:?}");
    let violations =
        sources().iter().flat_map(|(path, text)| upward_imports(&rooms, path, text)).collect::<Vec<_>>();
    assert_none(&violations);
}

#[test]
fn no_file_of_the_filter_is_longer_than_500_lines_before_its_tests() {
    let files = sources().into_iter().chain(files("src", &["js", "css", "html"]));
    let violations = files.filter_map(|(path, text)| long_file(&path, &text)).collect::<Vec<_>>();
    assert_none(&violations);
}

#[test]
fn no_function_of_the_filter_is_longer_than_70_lines() {
    let violations = sources().iter().flat_map(|(path, text)| long_functions(path, text)).collect::<Vec<_>>();
    assert_none(&violations);
}

#[test]
fn no_function_of_the_filter_has_more_than_5_parameters() {
    let violations = sources().iter().flat_map(|(path, text)| wide_functions(path, text)).collect::<Vec<_>>();
    assert_none(&violations);
}

#[test]
fn no_type_of_the_filter_is_an_option_of_an_option() {
    let violations = sources().iter().flat_map(|(path, text)| nested_options(path, text)).collect::<Vec<_>>();
    assert_none(&violations);
}

#[test]
fn the_top_level_holds_only_the_files_and_folders_of_the_layout() {
    // Folders that a build or a run of Python leaves behind.
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    let ignored: BTreeSet<&str> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    let mut violations = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with('.') && !ignored.contains(name.as_str()) && !TOP_LEVEL.contains(&name.as_str()) {
            violations.push(name);
        }
    }
    assert_none(&violations);
    for name in TOP_LEVEL.iter().filter(|name| **name != "cli") {
        assert!(root().join(name).exists(), "{name} is missing");
    }
}

/// A file that its binary does not declare is compiled by nobody, and its tests do not run.
#[test]
fn each_file_of_the_tests_is_a_module_of_its_binary() {
    let mut violations = Vec::new();
    for binary in ["compose", "envoy", "native", "observe"] {
        let folder = PathBuf::from("tests").join(binary);
        let files = files(folder.to_str().unwrap(), &["rs"]);
        let main = folder.join("main.rs");
        assert!(files.iter().any(|(path, _)| *path == main), "{} is missing", main.display());
        for (path, _) in files.iter().filter(|(path, _)| *path != main) {
            let parent = path.parent().unwrap();
            let parent = if parent == folder { main.clone() } else { parent.with_extension("rs") };
            let declaration = format!("mod {};", path.file_stem().unwrap().display());
            let declared = files.iter().any(|(path, text)| {
                *path == parent && text.lines().any(|line| line.trim_start_matches("pub ") == declaration)
            });
            if !declared {
                violations.push(format!("{}: no `{declaration}` in {}", path.display(), parent.display()));
            }
        }
    }
    assert_none(&violations);
}

/// CONTRIBUTING names tests that some Envoys skip. A name of five words or more is a test's.
#[test]
fn each_test_that_contributing_names_exists() {
    let text = fs::read_to_string(root().join("docs/CONTRIBUTING.md")).unwrap();
    let is_test = |name: &&str| {
        let is_word =
            |word: &str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        name.matches('_').count() >= 4 && name.split('_').all(is_word)
    };
    let named: BTreeSet<&str> = text.split('`').filter(is_test).collect();
    assert!(named.len() > 5, "{named:?}");
    let tests = files("tests", &["rs"]);
    let exists = |name: &str| tests.iter().any(|(_, text)| text.contains(&format!("fn {name}(")));
    let missing: Vec<String> = named.into_iter().filter(|name| !exists(name)).map(str::to_owned).collect();
    assert_none(&missing);
}

#[test]
fn an_import_of_a_room_below_is_found_in_any_form() {
    let rooms = rooms("pub mod time;\nmod plan;\npub mod keys;\n#[cfg(test)]\nmod testing;\n");
    assert_eq!(rooms, ["time", "plan", "keys"]);
    let lines = |path: &str, text: &str| {
        let found = upward_imports(&rooms, Path::new(path), text);
        found.iter().map(|found| found.split(':').nth(1).unwrap().parse().unwrap()).collect::<Vec<usize>>()
    };
    let allowed =
        "use crate::time::Span;\nuse super::time;\nuse crate::plan::{index, Match};\nuse std::fmt;\n";
    assert_eq!(lines("src/plan.rs", allowed), Vec::<usize>::new());
    let forbidden = "use crate::keys;\nuse crate::{\n    time::Span,\n    keys::{Key, pool},\n};\nuse super::keys as k;\n\
                     fn f(_: crate::keys::Key) {\n    crate::keys::pick();\n    assert!(crate::keys::any());\n}\n";
    assert_eq!(lines("src/plan.rs", forbidden), [1, 4, 6, 7, 8, 9]);
    assert_eq!(
        lines("src/plan/index.rs", "use super::keys;\nuse super::super::keys;\nuse crate::testing;\n"),
        [2, 3]
    );
    let in_tests = "#[cfg(test)]\nmod tests {\n    use crate::keys;\n}\n";
    assert_eq!(lines("src/plan.rs", in_tests), Vec::<usize>::new());
}

#[test]
fn a_line_that_could_hide_an_import_is_found() {
    let rooms = rooms("pub mod time;\npub mod plan;\npub mod keys;\n");
    let count = |path: &str, text: &str| upward_imports(&rooms, Path::new(path), text).len();
    for hidden in [
        "use self::super::keys;",
        "use crate::*;",
        "use super::*;",
        "use crate as root;",
        "use crate::{self as root};",
        "use super as root;",
        "extern crate self as root;",
        "#[path = \"keys/reset.rs\"]\nmod reset;",
        "include!(\"keys/reset.rs\");",
        "struct S(#[serde(with = \"crate::keys::reset\")] u8);",
    ] {
        assert!(count("src/plan.rs", hidden) > 0, "{hidden}");
    }
    for plain in
        ["use super::*;", "use super::matching as m;", "use self::inner::*;", "use crate::time::{self, *};"]
    {
        assert_eq!(count("src/plan/index.rs", plain), 0, "{plain}");
    }
}

#[test]
fn long_files_long_or_wide_functions_and_nested_options_are_found() {
    let path = Path::new("src/plan.rs");
    let (at_limit, above) = ("fn f() {}\n".repeat(FILE_MAX), "fn f() {}\n".repeat(FILE_MAX + 1));
    let tests = "#[cfg(test)]\nmod tests {}\n";
    assert_eq!(long_file(path, &format!("{at_limit}{tests}")), None);
    assert!(long_file(path, &format!("{above}{tests}")).is_some());
    assert!(long_file(Path::new("src/admin/page/page.js"), &above).is_some());

    let function = |lines: usize| format!("/// Doc.\nfn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    assert_eq!(long_functions(path, &function(FUNCTION_MAX)), Vec::<String>::new());
    let long = long_functions(path, &function(FUNCTION_MAX + 1));
    assert_eq!(long, ["src/plan.rs:2: `f` has 71 lines, at most 70"]);
    let method = format!("struct S;\nimpl S {{\n{}}}\n", function(FUNCTION_MAX + 1));
    assert_eq!(long_functions(path, &method).len(), 1);
    let in_tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(FUNCTION_MAX + 1));
    assert_eq!(long_functions(path, &in_tests), Vec::<String>::new());

    let five = "fn f(&self, a: A, b: A, c: A, d: A, e: A) {}";
    let six = five.replace("e: A", "e: A, (g, h): (A, A)");
    assert_eq!(wide_functions(path, &format!("impl S {{ {five} }}")), Vec::<String>::new());
    let wide = wide_functions(path, &format!("impl S {{ {six} }}"));
    assert_eq!(wide, ["src/plan.rs:1: `f` has 6 parameters, at most 5"]);

    assert_eq!(nested_options(path, "fn f() -> Option<Vec<Option<u8>>> { None }"), Vec::<String>::new());
    let nested = "type A = Vec<Option<Option<u8>>>;\nfn f(_: &std::option::Option<Option<u8>>) {}\n";
    assert_eq!(nested_options(path, nested).len(), 2);
}

/// Runs the lint over a file with this text; returns whether it passes, and its output.
fn lint_language(text: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sample.rs");
    fs::write(&file, text).unwrap();
    let output =
        Command::new(root().join("harness/scripts/lint-language")).arg("--list").arg(&file).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_language_lint_reads_sentences_of_comments_and_nothing_else() {
    let clean = "/// Returns the key of a request.\n".repeat(60);
    let (passes, output) = lint_language(&clean);
    assert!(passes && output.contains("0 of 60 sentences"), "{output}");
    // A string, a code span, a fence and a heading are no sentences of a comment.
    let no_sentence = "/// Returns `what` a request asked for.\n/// ```\n/// // What a fence holds is not read.\n/// ```\n\
                       fn f() -> &'static str { \"// What a string holds is not read.\" }\n";
    let (passes, output) = lint_language(&format!("{clean}{no_sentence}"));
    assert!(passes && output.contains("0 of 61 sentences"), "{output}");
    // A sentence may go over lines, follow code, and stand in the middle of a paragraph.
    let faults = "/// One plain sentence is here. The clients\n/// whose keys are gone come again.\n\
                  const A: u8 = b'\"'; // What follows code is read.\n//! Of three versions one is bad.\n";
    let (passes, output) = lint_language(&format!("{clean}{faults}"));
    assert!(!passes, "{output}");
    for expected in [
        "sample.rs:61: built: The clients whose keys are gone come again.",
        "sample.rs:63: begins, built: What follows code is read.",
        "sample.rs:64: begins: Of three versions one is bad.",
        "2 of 64 sentences (3.1 %, limit 2 %) begin",
        "2 of 64 sentences (3.1 %, limit 5 %) contain",
    ] {
        assert!(output.contains(expected), "{expected}:\n{output}");
    }
}
