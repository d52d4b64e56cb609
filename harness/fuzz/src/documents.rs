//! A valid document with pokes: values replaced, taken out or moved. Reaches what random bytes never spell.

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};

use super::exercise;
use super::{config, samples};

pub fn run(data: &[u8]) {
    let _ = poke(&mut Unstructured::new(data));
}

fn poke(u: &mut Unstructured<'_>) -> Result<()> {
    let mut document: Value = serde_json::from_str(u.choose(&samples::ALL)?).expect("valid");
    for _ in 0..u.int_in_range(0..=4)? {
        let mut pointers = Vec::new();
        walk(&document, String::new(), &mut pointers);
        let at = u.choose(&pointers)?.clone();
        match u.int_in_range(0..=5)? {
            0 => take_out(&mut document, &at),
            1 => repeat(&mut document, &at),
            2 => {
                // Where keys are is left out: elsewhere they would be shown.
                let from = u.choose(&pointers)?.clone();
                let value = document.pointer(&from).cloned().unwrap_or_default();
                if !value.to_string().contains(samples::MARK)
                    && let Some(slot) = document.pointer_mut(&at)
                {
                    *slot = value;
                }
            }
            _ => {
                let value = value(u)?;
                if let Some(slot) = document.pointer_mut(&at) {
                    *slot = value;
                }
            }
        }
    }
    match config::all_sound(document.to_string().as_bytes()) {
        Ok(plan) => exercise::routes_anything(&plan, u)?,
        Err(problems) => {
            let told = problems.to_string();
            assert!(!told.contains(samples::MARK), "{told}");
        }
    }
    Ok(())
}

/// Values at and beyond the borders of what the contract allows.
fn value(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match u.int_in_range(0..=7)? {
        0 => u.choose(&[Value::Null, json!(true), json!(false), json!([]), json!({})])?.clone(),
        1 => json!(u.arbitrary::<i64>()?),
        2 => json!(u.arbitrary::<f64>()?),
        3 => json!(u.int_in_range(0..=10_001u32)?),
        4 => json!(f64::from(u.int_in_range(0..=10_001u32)?) / 100.0),
        5 => {
            let words = [
                "v1",
                "v2",
                "keep",
                "stable",
                "probe",
                "hold",
                "observe",
                "enforce",
                "request",
                "5xx",
                "4xx",
                "reset",
                "authorization",
                "cookie",
                "host",
                ":path",
                "x-bellwether-cluster",
                "*.example.com",
                "/v1/",
                "old",
                "2026-11-20T10:00:00Z",
                "9999-12-31T23:59:59.999999Z",
                "",
                " ",
                "\n",
                "ä",
                "a.b",
                "a_b",
            ];
            json!(*u.choose(&words)?)
        }
        6 => {
            let unit = *u.choose(&["ms", "s", "m", "h", "", "d"])?;
            json!(format!("{}{unit}", u.arbitrary::<u32>()? >> u.int_in_range(0..=31u8)?))
        }
        _ => {
            let length = u.int_in_range(0..=80usize)?.min(u.len());
            json!(String::from_utf8_lossy(u.bytes(length)?))
        }
    })
}

fn split(pointer: &str) -> Option<(&str, &str)> {
    pointer.rsplit_once('/')
}

fn take_out(document: &mut Value, at: &str) {
    let Some((parent, last)) = split(at) else { return };
    match document.pointer_mut(parent) {
        Some(Value::Object(members)) => drop(members.remove(last)),
        Some(Value::Array(items)) => {
            if let Ok(n) = last.parse::<usize>()
                && n < items.len()
            {
                items.remove(n);
            }
        }
        _ => {}
    }
}

fn repeat(document: &mut Value, at: &str) {
    let Some((parent, last)) = split(at) else { return };
    if let (Some(Value::Array(items)), Ok(n)) = (document.pointer_mut(parent), last.parse::<usize>())
        && let Some(item) = items.get(n).cloned()
        && items.len() < 32
    {
        items.push(item);
    }
}

fn walk(value: &Value, at: String, pointers: &mut Vec<String>) {
    pointers.push(at.clone());
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                walk(item, format!("{at}/{i}"), pointers);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                walk(member, format!("{at}/{name}"), pointers);
            }
        }
        _ => {}
    }
}
