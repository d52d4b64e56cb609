//! LLM APIs: what their requests ask for, and what their answers say.

/// This is the lite product, which reads no bodies. The code that would read them is left out, because nothing reaches it.
pub const LITE: bool = cfg!(feature = "lite");

pub mod api; // which API a request speaks
pub mod scan; // an incremental reader of JSON
pub mod request; // what a request body asks for
pub mod edit; // changes of a request body, applied as it passes
pub mod answer; // what a document of an answer says
pub mod sse; // server-sent events
pub mod stream; // a streamed answer: how far it is, how it ended
pub mod failure; // the class of a failure, from status and codes
