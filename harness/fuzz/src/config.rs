//! A configuration of any bytes, in each wrapping that Envoy knows.
//!
//! The first byte says which wrapping (`j` plain, `s` StringValue, `g` GenericSecret as string, `b` as bytes, `p` Struct), the
//! rest is the document.

use arbitrary::Unstructured;
use bellwether::config::{admin, compile, document, secrets};
use bellwether::plan::Plan;
use bellwether::problems::Problems;

use super::exercise;
use super::samples::env;
use super::wire::{self, Specifier};

pub fn run(data: &[u8]) {
    let Some((how, text)) = data.split_first() else { return };
    let plain = all_sound(text);
    let json = serde_json::from_slice::<serde_json::Value>(text).ok().filter(serde_json::Value::is_object);
    let utf8 = std::str::from_utf8(text).ok();
    match (how, utf8, json) {
        (b's', Some(utf8), json) => same(&wire::string_value(utf8), &plain, json.is_some()),
        (b'g', Some(utf8), json) => {
            same(&wire::secret(Specifier::InlineString(utf8.to_owned())), &plain, json.is_some());
        }
        (b'b', _, json) => same(&wire::secret(Specifier::InlineBytes(text.to_vec())), &plain, json.is_some()),
        (b'p', _, Some(json)) => {
            let wrapped = wire::structure(&json).expect("an object");
            let structured = all_sound(&wrapped);
            // A Struct has lost duplicates, and numbers may be texts in it: it may be accepted where the text is not.
            if let Ok(plan) = &plain {
                assert_eq!(structured.as_ref().map(shown), Ok(shown(plan)));
            }
        }
        _ => {}
    }
    if let Ok(plan) = plain {
        // Out of bytes is the end of the requests.
        let _ = exercise::routes_anything(&plan, &mut Unstructured::new(text));
    }
}

/// The plan with nothing hidden but the keys.
fn shown(plan: &Plan) -> String {
    format!("{plan:?}")
}

/// What is wrapped means what it means plainly.
fn same(wrapped: &[u8], plain: &Result<Plan, Problems>, valid: bool) {
    let wrapped = all_sound(wrapped);
    // Text that is no JSON may look like something else once it is wrapped.
    if valid {
        assert_eq!(wrapped.as_ref().map(shown), plain.as_ref().map(shown));
    }
}

/// Each role's reader gives something, or at least one problem, each on a line of its own.
pub fn all_sound(bytes: &[u8]) -> Result<Plan, Problems> {
    let _ = sound(secrets(bytes).map(|_| ()));
    let _ = sound(admin(bytes).map(|_| ()));
    let _ = sound(document(bytes).map(|_| ()));
    sound(compile(bytes, &env))
}

fn sound<T>(outcome: Result<T, Problems>) -> Result<T, Problems> {
    if let Err(problems) = &outcome {
        assert!(!problems.0.is_empty(), "refused without a reason");
        for problem in &problems.0 {
            assert!(!problem.to_string().chars().any(char::is_control), "{problem:?} is more than a line");
        }
    }
    outcome
}
