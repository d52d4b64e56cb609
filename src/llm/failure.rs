//! The class of a failure, from the status of an answer and the codes of its body.
//!
//! Providers write the same failure in many ways: no money is 402, 429 or 403; a bad key is 401, or Google's 400; a model that is
//! gone is 404, 400 or 403. The codes tell. Words of a message are looked at where a provider has no code for it.

use crate::llm::answer::ErrorBody;

/// Whose failure it is, and what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The provider's: another attempt may do well.
    Transient,
    /// A limit on requests or tokens: another key may do well, or this one later.
    Rate,
    /// No money, or no quota: this key does nothing until somebody pays.
    Quota,
    /// The key is refused.
    Credential,
    /// The model is not there, or not for this account: the version's.
    Model,
    /// The caller's.
    Caller,
    /// None of these.
    Unknown,
}

/// Returns the class of a failed answer, or of an error in an answer with status 200.
pub fn class(status: u16, error: &ErrorBody) -> Class {
    let codes = [error.code.as_deref(), error.kind.as_deref(), error.status.as_deref()];
    let any = |names: &[&str]| codes.iter().flatten().any(|code| names.contains(code));
    let message = error.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    // Quota before rate: a provider without money for the account says 429 too.
    if any(QUOTA) || status == 402 || (matches!(status, 403 | 429) && says(QUOTA_WORDS)) {
        return Class::Quota;
    }
    if any(MODEL) || status == 410 || (matches!(status, 400 | 403 | 404) && says(MODEL_WORDS)) {
        return Class::Model;
    }
    if any(CREDENTIAL) || status == 401 || (status == 400 && says(CREDENTIAL_WORDS)) {
        return Class::Credential;
    }
    if any(RATE) || status == 429 || (status == 400 && says(RATE_WORDS)) {
        return Class::Rate;
    }
    if any(TRANSIENT) {
        return Class::Transient;
    }
    match (status, stated_status(error)) {
        (200, Some(stated)) if stated != 200 => class(stated, &ErrorBody { code: None, ..error.clone() }),
        (404, _) if any(&["not_found_error", "NOT_FOUND"]) && says(&["model"]) => Class::Model,
        (403, _) => Class::Credential,
        (408 | 409 | 500..=599, _) => Class::Transient,
        (200, _) if any(&["invalid_request_error"]) => Class::Caller,
        // An error in an answer that began well, and says no more.
        (200, _) => Class::Transient,
        (400..=499, _) => Class::Caller,
        _ => Class::Unknown,
    }
}

/// Returns the status that stands for an error in an answer with status 200.
pub fn status_of(error: &ErrorBody) -> u16 {
    match class(200, error) {
        Class::Rate => 429,
        Class::Quota => 402,
        Class::Credential => 401,
        Class::Model => 404,
        Class::Caller => 400,
        Class::Transient | Class::Unknown => {
            let overloaded = error.kind.as_deref() == Some("overloaded_error");
            stated_status(error).filter(|status| *status >= 500).unwrap_or(if overloaded { 529 } else { 503 })
        }
    }
}

/// The status that an error states as its code: vLLM, SGLang and Google do.
fn stated_status(error: &ErrorBody) -> Option<u16> {
    error.code.as_deref()?.parse().ok().filter(|status| (400..=599).contains(status))
}

const QUOTA: &[&str] = &[
    "insufficient_quota",
    "billing_error",
    "billing_hard_limit_reached",
    "blocked_api_access",
    "insufficient_balance",
    "insufficient_credits",
    "payment_required",
];
const QUOTA_WORDS: &[&str] = &[
    "credit balance",
    "insufficient balance",
    "spend limit",
    "spending cap",
    "credits are depleted",
    "account is not active",
    "exceeded your current quota",
];
const MODEL: &[&str] = &[
    "model_not_found",
    "DeploymentNotFound",
    "unknown_model",
    "model_terms_required",
    "model_decommissioned",
    "model_deprecated",
    "ServiceModelDeprecating",
    "invalid_model",
];
const MODEL_WORDS: &[&str] = &[
    "model_not_found",
    "model has been deprecated",
    "model has been decommissioned",
    "has been retired",
    "end-of-life",
    "no longer available",
    "is not found for api version",
    "does not have access to model",
    "the model identifier is invalid",
    "model does not exist",
];
const CREDENTIAL: &[&str] = &[
    "invalid_api_key",
    "authentication_error",
    "UNAUTHENTICATED",
    "API_KEY_INVALID",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "ExpiredTokenException",
    "organization_restricted",
    "account_deactivated",
];
const CREDENTIAL_WORDS: &[&str] =
    &["api key not valid", "api key expired", "invalid api key", "incorrect api key"];
const RATE: &[&str] = &[
    "rate_limit_exceeded",
    "rate_limit_error",
    "RESOURCE_EXHAUSTED",
    "ThrottlingException",
    "throttlingException",
    "tokens_per_minute",
    "requests",
    "tokens",
];
const RATE_WORDS: &[&str] = &["throttl", "rate limit", "too many requests", "too many tokens"];
const TRANSIENT: &[&str] = &[
    "server_error",
    "internal_error",
    "api_error",
    "overloaded_error",
    "timeout_error",
    "service_unavailable",
    "UNAVAILABLE",
    "INTERNAL",
    "DEADLINE_EXCEEDED",
    "engine_overloaded",
    "internalServerException",
    "modelStreamErrorException",
    "serviceUnavailableException",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::answer::Document;

    fn error(text: &str) -> ErrorBody {
        Document::read(text.as_bytes()).unwrap().error.unwrap()
    }

    #[test]
    fn codes_tell_the_class() {
        for (status, text, expected) in [
            (429, r#"{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}"#, Class::Quota),
            (402, r#"{"error":{"message":"Insufficient Balance"}}"#, Class::Quota),
            (400, r#"{"error":{"type":"billing_error"}}"#, Class::Quota),
            (429, r#"{"error":{"type":"tokens","code":"rate_limit_exceeded"}}"#, Class::Rate),
            (429, r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}"#, Class::Rate),
            (
                400,
                r#"{"error":{"message":"Too many tokens, please wait: ThrottlingException","type":"ThrottlingException"}}"#,
                Class::Rate,
            ),
            (401, r#"{"error":{"code":"invalid_api_key"}}"#, Class::Credential),
            (
                400,
                r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}"#,
                Class::Credential,
            ),
            (403, r#"{"error":{"type":"permission_error"}}"#, Class::Credential),
            (
                404,
                r#"{"error":{"code":"model_not_found","message":"The model x does not exist"}}"#,
                Class::Model,
            ),
            (
                404,
                r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-x"}}"#,
                Class::Model,
            ),
            (403, r#"{"error":{"message":"Project does not have access to model `gpt-x`"}}"#, Class::Model),
            (400, r#"{"error":{"code":"model_decommissioned"}}"#, Class::Model),
            (410, r#"{"error":{"message":"gone"}}"#, Class::Model),
            (
                400,
                r#"{"error":{"code":"unsupported_parameter","type":"invalid_request_error"}}"#,
                Class::Caller,
            ),
            (400, r#"{"error":{"code":"context_length_exceeded"}}"#, Class::Caller),
            (529, r#"{"type":"error","error":{"type":"overloaded_error"}}"#, Class::Transient),
            (500, r#"{"error":{}}"#, Class::Transient),
            (200, r#"{"error":{"type":"server_error"}}"#, Class::Transient),
            (200, r#"{"error":{"code":503,"status":"UNAVAILABLE"}}"#, Class::Transient),
            (200, r#"{"error":{"code":400,"type":"BadRequestError"}}"#, Class::Caller),
            (200, r#"{"error":"something"}"#, Class::Transient),
        ] {
            assert_eq!(class(status, &error(text)), expected, "{status} {text}");
        }
    }

    #[test]
    fn an_error_in_a_200_has_a_status() {
        for (text, status) in [
            (r#"{"error":{"type":"overloaded_error"}}"#, 529),
            (r#"{"error":{"code":502}}"#, 502),
            (r#"{"error":{"code":"rate_limit_exceeded"}}"#, 429),
            (r#"{"error":{"type":"authentication_error"}}"#, 401),
            (r#"{"error":{"type":"invalid_request_error"}}"#, 400),
            (r#"{"error":{"code":"model_not_found"}}"#, 404),
            (r#"{"error":"x"}"#, 503),
        ] {
            assert_eq!(status_of(&error(text)), status, "{text}");
        }
    }
}
