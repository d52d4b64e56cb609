//! The `keys` role's document: any bytes, and names and values of any text in a well-formed document.

use arbitrary::{Result, Unstructured};
use bellwether::config::secrets;
use bellwether::keys::key_set::KeySet;

use super::samples::{MARK, limits};
use super::wire::{self, Specifier};

pub fn run(data: &[u8]) {
    check(data);
    let _ = document(&mut Unstructured::new(data));
}

fn document(u: &mut Unstructured<'_>) -> Result<()> {
    let mut members = serde_json::Map::new();
    for _ in 0..u.int_in_range(0..=4)? {
        let named: bool = u.arbitrary()?;
        let name = if named { "three".to_owned() } else { text(u, 8)? };
        // The name is shown; the value, whatever becomes of it, is not.
        let value = format!("{}{MARK}{}", text(u, 8)?, text(u, 8)?);
        let value = if u.ratio(1, 8)? { serde_json::json!([value]) } else { value.into() };
        members.insert(name, value);
    }
    let json = serde_json::json!({ "secrets": members }).to_string();
    check(json.as_bytes());
    check(&wire::string_value(&json));
    check(&wire::secret(Specifier::InlineString(json.clone())));
    if let Err(problems) = secrets(json.as_bytes()) {
        let shown = members.keys().any(|name| name.contains(MARK));
        assert!(shown || !problems.to_string().contains(MARK), "{problems}");
    }
    Ok(())
}

fn text(u: &mut Unstructured<'_>, longest: usize) -> Result<String> {
    let length = u.int_in_range(0..=longest)?.min(u.len());
    Ok(String::from_utf8_lossy(u.bytes(length)?).into_owned())
}

fn check(bytes: &[u8]) {
    match secrets(bytes) {
        Ok(named) => {
            for (name, secret) in &named {
                let value = secret.expose();
                assert!(!name.is_empty() && !value.is_empty() && value.trim() == value);
                assert!(!value.chars().any(char::is_control), "would split a header");
            }
            let keys = KeySet::new(&limits().pools[0], &named);
            for key in keys.candidates() {
                let header = keys.header_value(key).expect("a candidate has a value").expose();
                assert!(header.starts_with("Bearer ") && !header.chars().any(char::is_control));
            }
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            assert!(!problems.to_string().lines().any(|line| line.chars().any(char::is_control)));
        }
    }
}
