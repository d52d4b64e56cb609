//! Status and events: types that the filter writes as JSON and that tools read from it.

pub mod build; // builds a status from a plan and its views
pub mod event; // events, one line of JSON each
pub mod gauges; // the gauges that a document shows, by the names in their labels
pub mod json; // writes these types as JSON
pub mod log; // the last events, kept in shared data
pub mod status; // the document of `GET /status`
pub mod wire; // times, durations and decimals in JSON
