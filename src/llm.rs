//! LLM APIs: what their requests ask for, and what their answers say.

pub mod scan;
pub mod sse;
