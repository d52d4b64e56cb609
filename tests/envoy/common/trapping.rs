//! The filter with a trap door: the shipped module, in which a call with a great many headers ends in a trap.
//!
//! It is made from the shipped bytes, not by another build. It differs from them only by a wrapper around two exports,
//! which reads the number of headers that the host passes along.

use std::fs;
use std::path::{Path, PathBuf};

use bellwether_harness::envoy::wasm_path;
use walrus::ir::{BinaryOp, Value};
use walrus::{ExportItem, FunctionBuilder, FunctionId, Module, ValType};

/// From so many headers on a call traps. Envoy passes up to a hundred; no other request of the tests has half as many.
pub const TRAP_HEADERS: i32 = 60;

/// The mark that only a module with the trap door contains.
pub const MARK: &str = "bellwether_test_trap_door";

/// The exports that get one: both are called with a context, a number of headers, and whether the stream ends with them.
pub const TRAPPED: [&str; 2] = ["proxy_on_request_headers", "proxy_on_response_headers"];

/// Writes the module with the trap door into this directory.
pub fn trapping_module(directory: &Path) -> PathBuf {
    let mut module = Module::from_file(wasm_path().unwrap()).unwrap();
    for name in TRAPPED {
        let export = module.exports.iter().find(|export| export.name == name).expect(name);
        let ExportItem::Function(inner) = export.item else { panic!("{name} is no function") };
        let id = export.id();
        let wrapped = trap_door(&mut module, inner);
        module.exports.get_mut(id).item = ExportItem::Function(wrapped);
    }
    let path = directory.join("trapping.wasm");
    fs::write(&path, module.emit_wasm()).unwrap();
    path
}

/// A function that calls `inner` unless there are too many headers.
fn trap_door(module: &mut Module, inner: FunctionId) -> FunctionId {
    let ty = module.types.get(module.funcs.get(inner).ty());
    assert_eq!((ty.params(), ty.results()), (&[ValType::I32; 3][..], &[ValType::I32][..]));
    let parameters: Vec<_> = (0..3).map(|_| module.locals.add(ValType::I32)).collect();
    let mut wrapper = FunctionBuilder::new(&mut module.types, &[ValType::I32; 3], &[ValType::I32]);
    wrapper.name(MARK.to_owned());
    let mut body = wrapper.func_body();
    body.local_get(parameters[1]).const_(Value::I32(TRAP_HEADERS)).binop(BinaryOp::I32GeS).if_else(
        None,
        |then| {
            then.unreachable();
        },
        |_| {},
    );
    for parameter in &parameters {
        body.local_get(*parameter);
    }
    body.call(inner);
    wrapper.finish(parameters, &mut module.funcs)
}
