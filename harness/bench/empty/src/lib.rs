//! A filter that does nothing, on the SDK and with the profile that Bellwether is built with. It is not post-linked: like
//! any filter on the SDK it exports every callback of the ABI, and Envoy calls what is exported.
#![cfg(target_family = "wasm")]
#![allow(missing_docs)] // `proxy_wasm::main!` defines an undocumented export.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

struct Root;
struct Stream;

impl Context for Root {}
impl RootContext for Root {
    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Stream {}
impl HttpContext for Stream {}

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}
