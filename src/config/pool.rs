//! `key_pools`: keys, the sources of their values, and the rules that take a key out of use. No problem here shows a key.

use crate::config::bounds;
use crate::config::value::{self, at_least, duration_or};
use crate::config::{Context, rewrite, unique};
use crate::headers::OWN_PREFIX;
use crate::json::{Cursor, Member, Object, Read, Reported, each};
use crate::plan::pool::{Cooldown, Inject, Key, KeyPool, KeyValue, Secret, StreakLimit};
use crate::time::Millis;

/// Default of `header`.
pub const DEFAULT_HEADER: &str = "authorization";
const DEFAULT_PREFIX: &str = "Bearer ";

/// Reads one pool.
pub fn pool(at: &Cursor<'_>, context: &Context<'_>) -> Read<KeyPool> {
    let object = at.object(&[
        "name",
        "header",
        "prefix",
        "keys",
        "inject",
        "rate_limited",
        "rejected",
        "exhausted",
        "failing",
        "sticky",
        "remove_headers",
    ])?;
    let name = object.need("name").and_then(|at| value::id(&at));
    let header =
        object.get("header").map_or_else(|| Ok(DEFAULT_HEADER.to_owned()), |at| header(&at, context));
    let prefix =
        object.get("prefix").map_or_else(|| Ok(DEFAULT_PREFIX.to_owned()), |at| value::header_value(&at));
    // If the header or the prefix itself is wrong, keys are read as if there were none.
    let scheme = Scheme {
        header: header.as_deref().unwrap_or(DEFAULT_HEADER),
        prefix: prefix.as_deref().unwrap_or_default(),
    };
    let keys = object.need("keys").and_then(|at| keys(&at.hidden(), scheme, context.env));
    let inject = object.get("inject").map_or(Ok(Inject::Attempt), |at| {
        at.choice(&["attempt", "request"]).map(|i| if i == 0 { Inject::Attempt } else { Inject::Request })
    });
    let rate_limited = object.get("rate_limited").map_or(Ok(RATE_LIMITED), |at| rate_limited(&at));
    let mut rejected = rejected(object.get("rejected").as_ref());
    let mut exhausted = exhausted(object.get("exhausted").as_ref());
    make_distinct(&object, &mut rejected.statuses, &mut exhausted.statuses);
    let failing = object.get("failing").map_or(Ok(FAILING), |at| failing(&at));
    let sticky = object.get("sticky").map_or(Ok(false), |at| at.boolean());
    let own = header.as_ref().map_or(DEFAULT_HEADER, String::as_str);
    let remove_headers = object
        .get("remove_headers")
        .map_or(Ok(Vec::new()), |at| rewrite::remove_headers(&at, &[own], context));
    Ok(KeyPool {
        name: name?,
        header: header?,
        prefix: prefix?,
        keys: keys?,
        inject: inject?,
        rate_limited: rate_limited?,
        rejected: rejected.limit?,
        rejected_statuses: rejected.statuses?,
        exhausted_for: exhausted.out_for?,
        exhausted_statuses: exhausted.statuses?,
        failing: failing?,
        sticky: sticky?,
        remove_headers: remove_headers?,
    })
}

/// Default of `rate_limited`: most providers count their limits by the minute.
const RATE_LIMITED: Cooldown = Cooldown { first: Millis(60_000), max: Millis(600_000) };
/// Default of `rejected`: a key that is refused rarely works again by itself.
const REJECTED: StreakLimit = StreakLimit { failures: 1, out_for: Millis(600_000) };
/// Default of `rejected.statuses`.
const REJECTED_STATUSES: [u16; 2] = [401, 403];
/// Default of `exhausted.disable_for`: somebody has to pay first.
const EXHAUSTED_FOR: Millis = Millis(3_600_000);
/// Default of `exhausted.statuses`.
const EXHAUSTED_STATUSES: [u16; 1] = [402];
/// Default of `failing`: five failures in a row are hardly chance.
const FAILING: StreakLimit = StreakLimit { failures: 5, out_for: Millis(30_000) };

/// Reads the header that carries the key.
fn header(at: &Cursor<'_>, context: &Context<'_>) -> Read<String> {
    let name = value::header_name(at)?;
    if value::is_framing(&name)
        || name.starts_with(OWN_PREFIX)
        || name == context.cluster_header
        || Some(&name) == context.version_header.as_ref()
    {
        return Err(at.wrong("must not be a header of the connection or of Bellwether"));
    }
    Ok(name)
}

/// Reads `rate_limited`.
fn rate_limited(at: &Cursor<'_>) -> Read<Cooldown> {
    let object = at.object(&["cooldown", "max_cooldown"])?;
    let cooldown = duration_or(&object, "cooldown", &bounds::COOLDOWN, RATE_LIMITED.first);
    let max_cooldown = duration_or(&object, "max_cooldown", &bounds::COOLDOWN, RATE_LIMITED.max);
    let max_cooldown = at_least(&object, "max_cooldown", max_cooldown, "cooldown", cooldown);
    Ok(Cooldown { first: cooldown?, max: max_cooldown? })
}

/// `rejected` as it was read.
struct RejectedFields {
    limit: Read<StreakLimit>,
    statuses: Read<Vec<u16>>,
}

/// Reads `rejected`.
fn rejected(at: Option<&Cursor<'_>>) -> RejectedFields {
    let Some(at) = at else {
        return RejectedFields { limit: Ok(REJECTED), statuses: Ok(REJECTED_STATUSES.to_vec()) };
    };
    match at.object(&["after", "disable_for", "statuses"]) {
        Ok(object) => RejectedFields {
            limit: streak_limit(&object, "disable_for", REJECTED),
            statuses: statuses(&object, &REJECTED_STATUSES),
        },
        Err(reported) => RejectedFields { limit: Err(reported), statuses: Err(reported) },
    }
}

/// `exhausted` as it was read.
struct ExhaustedFields {
    out_for: Read<Millis>,
    statuses: Read<Vec<u16>>,
}

/// Reads `exhausted`.
fn exhausted(at: Option<&Cursor<'_>>) -> ExhaustedFields {
    let Some(at) = at else {
        return ExhaustedFields { out_for: Ok(EXHAUSTED_FOR), statuses: Ok(EXHAUSTED_STATUSES.to_vec()) };
    };
    match at.object(&["disable_for", "statuses"]) {
        Ok(object) => ExhaustedFields {
            out_for: duration_or(&object, "disable_for", &bounds::COOLDOWN, EXHAUSTED_FOR),
            statuses: statuses(&object, &EXHAUSTED_STATUSES),
        },
        Err(reported) => ExhaustedFields { out_for: Err(reported), statuses: Err(reported) },
    }
}

/// Gives each status one meaning: a status that is listed in one list is none of the other's defaults. To list it in both is a
/// mistake.
fn make_distinct(pool: &Object<'_>, rejected: &mut Read<Vec<u16>>, exhausted: &mut Read<Vec<u16>>) {
    let (Ok(first), Ok(second)) = (rejected.as_mut(), exhausted.as_mut()) else { return };
    let Some(both) = second.iter().find(|status| first.contains(status)).copied() else { return };
    let (in_rejected, in_exhausted) = (pool.get("rejected"), pool.get("exhausted"));
    let listed = |at: &Option<Cursor<'_>>| at.as_ref().is_some_and(|at| at.peek("statuses").is_some());
    match (listed(&in_rejected), listed(&in_exhausted), in_exhausted) {
        (true, true, Some(at)) => {
            let rule = format!("must not list {both} in statuses, which rejected.statuses lists");
            *exhausted = Err(at.refuse(&rule));
        }
        (false, true, _) => first.retain(|status| !second.contains(status)),
        _ => second.retain(|status| !first.contains(status)),
    }
}

/// Reads `statuses`: a list without duplicates, in ascending order.
fn statuses(object: &Object<'_>, default: &[u16]) -> Read<Vec<u16>> {
    let Some(at) = object.get("statuses") else { return Ok(default.to_vec()) };
    let items = at.items(&bounds::KEY_STATUSES)?;
    let mut listed: Vec<u16> = Vec::new();
    let mut failed: Option<Reported> = None;
    for item in &items.cursors {
        match as_key_status(item) {
            None => failed = Some(item.wrong(KEY_STATUS)),
            Some(status) if listed.contains(&status) => failed = Some(item.wrong("must be listed once")),
            Some(status) => listed.push(status),
        }
    }
    listed.sort_unstable();
    failed.map_or(Ok(listed), Err)
}

/// The rule of a status that refuses a key: 408 is the client's, 429 is a rate limit.
const KEY_STATUS: &str = "must be a status in 400..=499 other than 408 and 429";

fn as_key_status(at: &Cursor<'_>) -> Option<u16> {
    let status: u32 = match at.as_str() {
        Some(digits) if digits.len() == 3 && !digits.starts_with('+') => digits.parse().ok()?,
        Some(_) => return None,
        None => at.as_integer()?,
    };
    let status = u16::try_from(status).ok()?;
    (bounds::KEY_STATUS.contains(&status) && !matches!(status, 408 | 429)).then_some(status)
}

/// Reads `failing`.
fn failing(at: &Cursor<'_>) -> Read<StreakLimit> {
    streak_limit(&at.object(&["after", "cooldown"])?, "cooldown", FAILING)
}

/// Reads a limit on failures in a row; `out_for` names the field with the time out of use.
fn streak_limit(object: &Object<'_>, out_for: &'static str, default: StreakLimit) -> Read<StreakLimit> {
    let failures = object.get("after").map_or(Ok(default.failures), |at| at.integer(&bounds::KEY_FAULTS));
    let out_for = duration_or(object, out_for, &bounds::COOLDOWN, default.out_for);
    Ok(StreakLimit { failures: failures?, out_for: out_for? })
}

/// A function that reads an environment variable.
type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The parts of a pool that decide how its keys are cleaned.
#[derive(Clone, Copy)]
struct Scheme<'a> {
    header: &'a str,
    prefix: &'a str,
}

impl Scheme<'_> {
    /// Returns a key, trimmed and without a doubled prefix.
    fn clean(self, raw: &str) -> Result<Secret, &'static str> {
        checked(Secret::for_header(raw, self.header, self.prefix), self.prefix)
    }
}

/// Reads the keys of a pool.
fn keys(at: &Cursor<'_>, scheme: Scheme<'_>, env: Env<'_>) -> Read<Vec<Key>> {
    let items = at.items(&bounds::KEYS)?;
    unique(&items, "id");
    // Values are read first, so that a key with another problem is still found as a duplicate.
    let value = |item: &Cursor<'_>| item.peek("value").map(|at| key_value(&at.hidden(), scheme, env));
    let values: Vec<Option<Read<KeyValue>>> = items.cursors.iter().map(value).collect();
    refuse_equal_values(&items.cursors, &values);
    let is_zero = |item: &Cursor<'_>| item.peek("weight").and_then(|at| at.as_integer()) == Some(0);
    if items.cursors.iter().all(is_zero) {
        at.refuse("at least one weight must be above 0");
    }
    let mut values = values.into_iter();
    each(&items, |at| key(at, values.next().flatten()))
}

/// Reads one key; its value has been read already.
fn key(at: &Cursor<'_>, value: Option<Read<KeyValue>>) -> Read<Key> {
    let object = at.object(&["id", "value", "weight", "quota_group"])?;
    let id = object.need("id").and_then(|at| value::id(&at));
    let value = value.unwrap_or_else(|| Err(object.missing("value", "is required")));
    // A text here is hidden: it may be a key that was pasted one line too far down.
    let weight = object.get("weight").map(|at| if at.as_str().is_some() { at.hidden() } else { at });
    let weight = weight.map_or(Ok(1), |at| at.integer(&bounds::KEY_WEIGHT));
    let quota_group = object.get("quota_group").map(|at| value::id(&at)).transpose();
    Ok(Key { id: id?, value: value?, weight: weight?, quota_group: quota_group? })
}

/// Reports keys with equal values. A request would try such a key a second time, and a cooldown would apply to one of them only.
fn refuse_equal_values(items: &[Cursor<'_>], values: &[Option<Read<KeyValue>>]) {
    let known = |value: &Option<Read<KeyValue>>, other: &KeyValue| match (value, other) {
        (Some(Ok(KeyValue::Known(a))), KeyValue::Known(b)) => a == b,
        (Some(Ok(KeyValue::Named(a))), KeyValue::Named(b)) => a == b,
        _ => false,
    };
    for (i, (item, value)) in items.iter().zip(values).enumerate() {
        let (Some(Ok(value)), Some(at)) = (value, item.peek("value")) else { continue };
        let Some(first) = values.iter().take(i).position(|earlier| known(earlier, value)) else { continue };
        let (first, second) = (items.get(first).map(name_of).unwrap_or_default(), name_of(item));
        at.refuse(&format!("keys {first} and {second} have the same value"));
    }
}

/// Returns a key's id, or its path if it has no id that is a string.
fn name_of(item: &Cursor<'_>) -> String {
    let id = item.peek("id");
    id.and_then(|at| at.as_str().map(|_| at.shown())).unwrap_or_else(|| item.path())
}

/// Reads the value of a key: a text, an environment variable, or the name of a secret.
fn key_value(at: &Cursor<'_>, scheme: Scheme<'_>, env: Env<'_>) -> Read<KeyValue> {
    if let Some(raw) = at.as_str() {
        return scheme.clean(raw).map(KeyValue::Known).map_err(|rule| at.refuse(rule));
    }
    let members = if at.is_object() { at.members()? } else { Vec::new() };
    // The name of an unknown field is not shown: it may be the key itself.
    match members.as_slice() {
        [Member { name: "env", at }] => from_environment(at, scheme, env),
        [Member { name: "secret", at }] => secret_name(at).map(KeyValue::Named),
        _ => Err(at.wrong("must be a string, {\"env\": NAME} or {\"secret\": NAME}")),
    }
}

fn from_environment(at: &Cursor<'_>, scheme: Scheme<'_>, env: Env<'_>) -> Read<KeyValue> {
    let name = at.string()?;
    // Problems show this name, so it must not be a pasted key. Most keys have other characters as well.
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !(1..=bounds::NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_name) {
        return Err(at.refuse("must be the name of an environment variable: letters, digits and _"));
    }
    let Some(raw) = env(name) else {
        return Err(at.refuse(&format!("environment variable {name} is not set")));
    };
    scheme
        .clean(&raw)
        .map(KeyValue::Known)
        .map_err(|rule| at.refuse(&format!("environment variable {name} {rule}")))
}

fn secret_name(at: &Cursor<'_>) -> Read<String> {
    let name = at.string()?;
    if is_secret_name(name) { Ok(name.to_owned()) } else { Err(at.refuse(SECRET_NAME)) }
}

/// The rule of [`is_secret_name`].
pub const SECRET_NAME: &str = "must be a name of 1 to 255 bytes without white space";

/// Returns whether a secret may have this name. The usual secret stores' file and object names all pass.
pub fn is_secret_name(name: &str) -> bool {
    (1..=bounds::NAME_BYTES_MAX).contains(&name.len())
        && !name.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Returns the value of a secret, trimmed. A doubled prefix stays, because only the pool knows the prefix.
///
/// # Errors
/// The rule that the value breaks.
pub fn secret(raw: &str) -> Result<Secret, &'static str> {
    checked(Secret::clean(raw, ""), "")
}

/// Refuses a key that would be sent as it is and could not be right.
fn checked(secret: Secret, prefix: &str) -> Result<Secret, &'static str> {
    let value = secret.expose();
    if value.is_empty() || value.eq_ignore_ascii_case(prefix.trim()) {
        return Err("must not be blank");
    }
    if value.chars().any(char::is_control) {
        return Err("must not have control characters inside");
    }
    if value.contains('\u{feff}') {
        return Err("must not have a byte order mark (U+FEFF): save the file without one");
    }
    if value.chars().any(is_invisible) {
        return Err("must not have zero-width or other invisible characters (U+200B and the like)");
    }
    let quotes = [('"', '"'), ('\'', '\''), ('`', '`'), ('\u{201c}', '\u{201d}'), ('\u{2018}', '\u{2019}')];
    if quotes.iter().any(|(begin, end)| value.len() > 1 && value.starts_with(*begin) && value.ends_with(*end))
    {
        return Err("must not have quotes around it");
    }
    Ok(secret)
}

/// Returns whether a character takes no room on a screen: a soft hyphen, zero-width characters, marks of direction.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}')
}
