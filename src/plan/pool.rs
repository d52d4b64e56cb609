//! Pools of API keys as they are configured.

use crate::time::Millis;

/// A weighted pool of API keys.
#[derive(Debug)]
#[non_exhaustive]
pub struct KeyPool {
    /// Unique in the plan.
    pub name: String,
    /// Request header that carries the key; lower case.
    pub header: String,
    /// Written before the key.
    pub prefix: String,
    /// `1..=256`; at least one has a weight above 0.
    pub keys: Vec<Key>,
    /// Where the key is put in.
    pub inject: Inject,
    /// Cooldown after a 429.
    pub rate_limited: Cooldown,
    /// Limit of refusals in a row (401 and 403).
    pub rejected: StreakLimit,
    /// Limit of bad outcomes in a row.
    pub failing: StreakLimit,
    /// Same identity, same key while it is usable.
    pub sticky: bool,
}

/// A cooldown that doubles each time it has not helped.
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

/// Where the key is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inject {
    /// By the `keys` role, once per attempt.
    Attempt,
    /// By the `router`, once per request.
    Request,
}

/// One API key of a pool.
#[derive(Debug)]
#[non_exhaustive]
pub struct Key {
    /// Unique in the pool.
    pub id: String,
    /// The value, or the name under which the `keys` role's document will bring it.
    pub value: KeyValue,
    /// `0..=1000`.
    pub weight: u32,
    /// Keys of one group cool together.
    pub quota_group: Option<String>,
}

/// A key's value, or where it will come from.
pub enum KeyValue {
    /// Known: inline or from the environment; trimmed, without a doubled prefix.
    Known(Secret),
    /// In the `keys` role's secrets document under this name; until it is there the key is disabled.
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

/// A secret. It implements neither `Debug` nor `Display` nor `Serialize`, so it cannot slip into a log line.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a key as people paste it: white space around it and one leading copy of `prefix` (in any case, with or without
    /// the white space after it) are removed, so that `Bearer Bearer sk-…` is never sent.
    pub fn clean(raw: &str, prefix: &str) -> Secret {
        let value = raw.trim();
        let scheme = prefix.trim();
        let rest = match (scheme.is_empty(), value.split_at_checked(scheme.len())) {
            (false, Some((head, rest))) if head.eq_ignore_ascii_case(scheme) => {
                // `Bearerxyz` is a key, `Bearer xyz` is a doubled prefix; a prefix without a space has no such border.
                let border =
                    prefix.len() == scheme.len() || rest.is_empty() || rest.starts_with(char::is_whitespace);
                if border { rest.trim_start() } else { value }
            }
            _ => value,
        };
        Secret(rest.to_owned())
    }

    /// The value as it goes into a header, after `prefix`.
    pub fn prefixed(&self, prefix: &str) -> Secret {
        Secret([prefix, &self.0].concat())
    }

    /// The value itself. Only for writing it into a request header.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
