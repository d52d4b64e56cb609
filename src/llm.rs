//! LLM APIs: what their requests ask for, and what their answers say.

pub mod api; // which API a request speaks
pub mod scan; // an incremental reader of JSON
pub mod request; // what a request body asks for
pub mod edit; // changes of a request body, applied as it passes
pub mod answer; // what a document of an answer says
pub mod sse; // server-sent events of an answer
