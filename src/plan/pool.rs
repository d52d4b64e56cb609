//! Pools of API keys as they are configured.

use crate::time::Millis;

/// A weighted pool of API keys.
#[derive(Debug)]
#[non_exhaustive]
pub struct KeyPool {
    /// Name; unique in the plan.
    pub name: String,
    /// Request header that carries the key; lower case.
    pub header: String,
    /// Text before the key in the header.
    pub prefix: String,
    /// `1..=256` keys; at least one has a weight above 0.
    pub keys: Vec<Key>,
    /// The role that puts the key in.
    pub inject: Inject,
    /// Cooldown after a 429.
    pub rate_limited: Cooldown,
    /// Limit of refusals in a row.
    pub rejected: StreakLimit,
    /// Statuses by which the provider refuses a key, in ascending order.
    pub rejected_statuses: Vec<u16>,
    /// Time for which a key without money or quota is out of use.
    pub exhausted_for: Millis,
    /// Statuses by which the provider says that the money or the quota of a key is used up, in ascending order.
    pub exhausted_statuses: Vec<u16>,
    /// Limit of bad outcomes in a row.
    pub failing: StreakLimit,
    /// Gives one identity the same key as long as the key is usable.
    pub sticky: bool,
    /// Client headers that are removed besides the credentials; lower case.
    pub remove_headers: Vec<String>,
}

/// A provider's refusal of a key, by the status of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The key is not accepted.
    Rejected,
    /// The money or the quota of the key is used up.
    Exhausted,
    /// 429 without evidence that the key is limited.
    Limited,
}

impl KeyPool {
    /// Returns the refusal of a key by which the provider answers with this status.
    pub fn refusal(&self, status: u16) -> Option<Refusal> {
        let lists = |statuses: &[u16]| statuses.binary_search(&status).is_ok();
        if lists(&self.rejected_statuses) {
            Some(Refusal::Rejected)
        } else if lists(&self.exhausted_statuses) {
            Some(Refusal::Exhausted)
        } else {
            None
        }
    }
}

/// A cooldown that doubles after each failed trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cooldown {
    /// Length of the first one.
    pub first: Millis,
    /// Bound of the doubling.
    pub max: Millis,
}

/// Failures in a row after which a key is taken out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreakLimit {
    /// Number of failures; at least 1.
    pub failures: u32,
    /// Time for which the key is out of use.
    pub out_for: Millis,
}

/// A key of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRef {
    /// Index of the pool in the plan.
    pub pool: usize,
    /// Index of the key in the pool.
    pub key: usize,
}

/// The role that puts a key into the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inject {
    /// The `keys` role, for each attempt.
    Attempt,
    /// The `router` role, once a request.
    Request,
}

/// One API key of a pool.
#[derive(Debug)]
#[non_exhaustive]
pub struct Key {
    /// Name; unique in the pool.
    pub id: String,
    /// Value, or the name of the secret that will bring it.
    pub value: KeyValue,
    /// Weight, `0..=1000`.
    pub weight: u32,
    /// Keys of one group share a quota, so they cool down together.
    pub quota_group: Option<String>,
}

/// The value of a key, or the name of the secret that will bring it.
pub enum KeyValue {
    /// A value from the document or the environment, trimmed and without a doubled prefix.
    Known(Secret),
    /// The name of a secret in the `keys` role's document. Until the secret arrives the key is disabled.
    Named(String),
}

impl std::fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeyValue::Known(_) => f.write_str("Known(<secret>)"),
            KeyValue::Named(name) => write!(f, "Named({name:?})"),
        }
    }
}

/// A secret. It implements neither `Debug` nor `Display` nor `Serialize`, so that no log line can contain it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Cleans a pasted key: removes white space around it and one leading copy of `prefix` (in any case, with or without the
    /// white space after it), so that `Bearer Bearer sk-…` is never sent.
    pub fn clean(raw: &str, prefix: &str) -> Secret {
        let value = raw.trim();
        let scheme = prefix.trim();
        let rest = match (scheme.is_empty(), value.split_at_checked(scheme.len())) {
            (false, Some((head, rest))) if head.eq_ignore_ascii_case(scheme) => {
                // With the prefix `Bearer `, `Bearerxyz` is a key and `Bearer xyz` a doubled prefix. A prefix without a space
                // needs no border.
                let border =
                    prefix.len() == scheme.len() || rest.is_empty() || rest.starts_with(char::is_whitespace);
                if border { rest.trim_start() } else { value }
            }
            _ => value,
        };
        Secret(rest.to_owned())
    }

    /// Cleans a pasted key for this header. In a header that has no schemes of its own a leading `Bearer ` is never right, so it is
    /// removed whatever the pool's prefix is.
    pub fn for_header(raw: &str, header: &str, prefix: &str) -> Secret {
        let secret = Secret::clean(raw, prefix);
        if matches!(header, "authorization" | "proxy-authorization") {
            secret
        } else {
            Secret::clean(&secret.0, "Bearer ")
        }
    }

    /// Returns the value of the header: `prefix`, then the key.
    pub fn prefixed(&self, prefix: &str) -> Secret {
        Secret([prefix, &self.0].concat())
    }

    /// Returns the value itself. Only code that writes it into a request header may call this.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
