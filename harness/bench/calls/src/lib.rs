//! A filter that does what the header `x-deployment-id` says, ten times a request: what one host call costs is a tenth of the
//! difference to `nothing`.
#![cfg(target_family = "wasm")]
#![allow(missing_docs)] // `proxy_wasm::main!` defines an undocumented export.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, MapType, MetricType};

const TIMES: u32 = 10;

struct Root {
    flags: Option<Vec<u8>>,
}

struct Stream {
    counter: Option<u32>,
    flags: Option<Vec<u8>>,
}

impl Context for Root {}
impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.flags = bellwether_abi::foreign("expr_create", b"response.flags == 0");
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        let counter = hostcalls::define_metric(MetricType::Counter, "bench_calls").ok();
        Some(Box::new(Stream { counter, flags: self.flags.clone() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Stream {}
impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let headers = MapType::HttpRequestHeaders;
        let what =
            hostcalls::get_map_value_bytes(headers, "x-deployment-id").ok().flatten().unwrap_or_default();
        if what == b"empty" {
            bellwether_abi::set_property(b"bench.empty", b"");
        }
        for _ in 0..TIMES {
            match what.as_slice() {
                b"header" => drop(hostcalls::get_map_value_bytes(headers, ":path")),
                b"missing" => drop(hostcalls::get_map_value_bytes(headers, "x-missing")),
                b"headers" => drop(hostcalls::get_map_bytes(headers)),
                b"as-is" => drop(bellwether_abi::headers(bellwether_abi::Map::Request)),
                b"set" => drop(hostcalls::set_map_value(headers, "x-bench", Some("value"))),
                b"remove" => drop(hostcalls::remove_map_value(headers, "x-missing")),
                b"property" => drop(hostcalls::get_property(vec!["response", "flags"])),
                b"absent" => drop(hostcalls::get_property(vec!["bench.absent"])),
                b"empty" => drop(bellwether_abi::property(b"bench.empty")),
                b"set-property" => drop(hostcalls::set_property(vec!["bench"], Some(b"12345678"))),
                b"expression" => {
                    let number = self.flags.as_deref().unwrap_or_default();
                    drop(bellwether_abi::foreign("expr_evaluate", number));
                }
                b"length" => {
                    let number = self.flags.as_deref().unwrap_or_default();
                    std::hint::black_box(bellwether_abi::foreign_length("expr_evaluate", number));
                }
                b"clock" => drop(hostcalls::get_current_time()),
                b"metric" => {
                    if let Some(counter) = self.counter {
                        let _ = hostcalls::increment_metric(counter, 1);
                    }
                }
                _ => {}
            }
        }
        Action::Continue
    }
}

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root { flags: None }));
}}
