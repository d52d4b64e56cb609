use super::*;

fn body_of(wanted: Wanted, pieces: &[&[u8]]) -> Body {
    let mut body = Body::new(wanted);
    for piece in pieces {
        body.feed(piece);
    }
    body.end();
    body
}

fn read(text: &str) -> Body {
    body_of(Wanted::default(), &[text.as_bytes()])
}

fn conversation(text: &str) -> Option<u64> {
    let wanted = Wanted { conversation: true, ..Wanted::default() };
    let whole = body_of(wanted.clone(), &[text.as_bytes()]).seen().conversation();
    let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    assert_eq!(body_of(wanted, &bytes).seen().conversation(), whole, "byte by byte: {text}");
    whole
}

#[test]
fn members_are_known_with_their_places() {
    let text = r#"{ "model" : "gpt\u002d4o","stream":true,"n":1.5,"stop":null,"messages":[{"model":"no"}],"o":{"a":1}}"#;
    let body = read(text);
    let seen = body.seen();
    assert_eq!((body.progress(), &seen.fault, seen.inside), (Progress::Done, &None, 1));
    assert_eq!(seen.text("model"), Some("gpt-4o"));
    assert_eq!((seen.flag("stream"), seen.flag("n"), seen.text("absent")), (Some(true), None, None));
    let spans: Vec<(&str, &str)> = seen
        .members
        .iter()
        .map(|member| {
            let cut = |place: Place| {
                &text[usize::try_from(place.start).unwrap()..usize::try_from(place.end).unwrap()]
            };
            (cut(member.name_at), cut(member.value_at))
        })
        .collect();
    assert_eq!(
        spans,
        [
            ("\"model\"", "\"gpt\\u002d4o\""),
            ("\"stream\"", "true"),
            ("\"n\"", "1.5"),
            ("\"stop\"", "null"),
            ("\"messages\"", "[{\"model\":\"no\"}]"),
            ("\"o\"", "{\"a\":1}"),
        ]
    );
}

#[test]
fn a_member_is_known_as_soon_as_its_value_is_complete() {
    let mut body = Body::new(Wanted::default());
    body.feed(br#"{"model":"gpt-4o"#);
    assert_eq!(body.seen().text("model"), None);
    body.feed(b"\"");
    assert_eq!((body.seen().text("model"), body.progress()), (Some("gpt-4o"), Progress::Open));
}

#[test]
fn bodies_that_can_be_read_in_two_ways_are_faulty() {
    let fault = |text: &str| read(text).seen().fault.clone();
    assert_eq!(fault(r#"{"model":"a","model":"b"}"#), Some(Fault::Duplicate("model".to_owned())));
    assert_eq!(fault(r#"{"model":"a","Model":"b"}"#), Some(Fault::Duplicate("Model".to_owned())));
    assert_eq!(fault(r#"{"mod\u0065l":"b"}"#), Some(Fault::EscapedName));
    assert_eq!(fault("{\"\u{17f}tream\":true}"), Some(Fault::EscapedName));
    assert_eq!(fault(r#"{"messages":[{"role":"a","role":"b"}],"a":{"mod\u0065l":1}}"#), None);
    assert_eq!(fault(r#"["model"]"#), Some(Fault::NotAnObject));
    assert_eq!(fault("1"), Some(Fault::NotAnObject));
    assert_eq!(fault(""), Some(Fault::NotJson));
    assert_eq!(fault("{"), Some(Fault::NotJson));
    assert_eq!(fault("model=gpt-4o"), Some(Fault::NotJson));
    assert_eq!(fault(&format!(r#"{{"{}":1}}"#, "n".repeat(NAME_BYTES + 1))), Some(Fault::TooLarge));
    let many: Vec<String> = (0..=MEMBERS_MAX).map(|n| format!("\"m{n}\":{n}")).collect();
    assert_eq!(fault(&format!("{{{}}}", many.join(","))), Some(Fault::TooLarge));
    assert_eq!(fault(&format!("{{{}}}", many[1..].join(","))), None);
}

#[test]
fn texts_one_level_down_are_found_where_they_are_wanted() {
    let wanted = Wanted {
        paths: vec![
            ("metadata".to_owned(), "user_id".to_owned()),
            ("stream_options".to_owned(), "include_usage".to_owned()),
        ],
        conversation: false,
    };
    let text = r#"{"user_id":"top","metadata":{"x":{"user_id":"deep"},"user_id":"u-1"},"stream_options":{"include_usage":true}}"#;
    for size in [1, 7, text.len()] {
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        let body = body_of(wanted.clone(), &pieces);
        assert_eq!(body.seen().texts, [Some("u-1".to_owned()), None]);
    }
}

#[test]
fn a_conversation_is_its_system_prompt_and_its_first_message_of_a_user() {
    let first =
        conversation(r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"hello"}]}"#)
            .unwrap();
    // It goes on, and it stays the same.
    let later = r#"{"model":"m","messages":[{"content":"s","role":"system"},{"content":[{"type":"text","text":"x"}],"role":"user"}]}"#;
    let grown = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"hello"},{"role":"assistant","content":"hi"},
        {"role":"user","content":"more"}],"temperature":1}"#;
    assert_eq!(conversation(grown), Some(first));
    assert_ne!(conversation(later), Some(first));
    let other_system = r#"{"messages":[{"role":"system","content":"t"},{"role":"user","content":"hello"}]}"#;
    assert_ne!(conversation(other_system), Some(first));
    let anthropic = conversation(r#"{"system":"s","messages":[{"role":"user","content":"hello"}]}"#);
    assert!(anthropic.is_some());
    assert_ne!(anthropic, conversation(r#"{"system":"t","messages":[{"role":"user","content":"hello"}]}"#));
    assert_eq!(
        anthropic,
        conversation(
            r#"{"messages":[{"role":"user","content":"hello"},{"role":"assistant","content":"x"}],"system":"s"}"#
        )
    );
    let responses = conversation(r#"{"instructions":"s","input":"hello"}"#);
    assert!(responses.is_some() && responses != conversation(r#"{"instructions":"s","input":"other"}"#));
    assert!(conversation(r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#).is_some());
    assert_eq!(conversation(r#"{"model":"m","messages":[]}"#), None);
    assert_eq!(conversation(r#"{"messages":[{"role":"assistant","content":"x"}]}"#), None);
}
