use proptest::prelude::*;

use super::*;

/// Writes down all that it is told.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Log(Vec<String>, Vec<u8>);

impl Visitor for Log {
    fn name(&mut self, depth: u32, name: Token<'_>) {
        self.0.push(format!("{depth} name {name:?}"));
    }

    fn scalar(&mut self, depth: u32, kind: Scalar, value: Token<'_>) {
        self.0.push(format!("{depth} {kind:?} {value:?} {:?}", std::mem::take(&mut self.1)));
    }

    fn open(&mut self, depth: u32, kind: Container, start: u64) {
        self.0.push(format!("{depth} {kind:?} {start}"));
    }

    fn close(&mut self, depth: u32, end: u64) {
        self.0.push(format!("{depth} end {end}"));
    }

    fn text(&mut self, piece: &[u8]) {
        self.1.extend_from_slice(piece);
    }
}

fn read(pieces: &[&[u8]]) -> (Progress, Log) {
    let (mut scan, mut log) = (Scan::default(), Log::default());
    for piece in pieces {
        scan.feed(piece, &mut log);
    }
    (scan.end(&mut log), log)
}

/// Spans are those of the document.
struct Spans<'a>(&'a [u8], usize);

impl Visitor for Spans<'_> {
    fn name(&mut self, _: u32, name: Token<'_>) {
        self.check(name, true);
    }

    fn scalar(&mut self, _: u32, kind: Scalar, value: Token<'_>) {
        self.check(value, kind == Scalar::Text);
    }

    fn open(&mut self, _: u32, kind: Container, start: u64) {
        let bracket = if kind == Container::Object { b'{' } else { b'[' };
        assert_eq!(self.0[usize::try_from(start).unwrap()], bracket);
    }

    fn close(&mut self, _: u32, end: u64) {
        assert!(matches!(self.0[usize::try_from(end).unwrap() - 1], b'}' | b']'));
    }
}

impl Spans<'_> {
    fn check(&mut self, token: Token<'_>, text: bool) {
        let (start, end) = (usize::try_from(token.start).unwrap(), usize::try_from(token.end).unwrap());
        let span = &self.0[start..end];
        let inner = if text { &span[1..span.len() - 1] } else { span };
        assert!(inner.starts_with(token.raw));
        assert_eq!(token.whole, inner.len() == token.raw.len());
        self.1 += 1;
    }
}

const CHAT: &str = r#"{"model": "gpt-4o", "stream":true,"temperature":-0.5e+3 ,"messages":[{"role":"user","content":"a\"b\\c\u00e9\n é"},
  {"role":"assistant","content":null,"n":[[],{},[{}],0,1.5,false]}] , "metadata":{"user_id":"u"}}"#;

#[test]
fn every_split_of_a_body_gives_the_same_tokens() {
    let body = CHAT.as_bytes();
    let whole = read(&[body]);
    assert_eq!(whole.0, Progress::Done);
    for first in 0..=body.len() {
        let (a, rest) = body.split_at(first);
        assert_eq!(read(&[a, rest]), whole, "split at {first}");
        for second in 0..=rest.len() {
            let (b, c) = rest.split_at(second);
            assert_eq!(read(&[a, b, c]), whole, "split at {first} and {}", first + second);
        }
    }
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(read(&bytes), whole);
}

#[test]
fn tokens_lie_where_they_say() {
    let mut spans = Spans(CHAT.as_bytes(), 0);
    assert_eq!(Scan::default().feed(CHAT.as_bytes(), &mut spans), Progress::Done);
    assert_eq!(spans.1, 22);
    let long =
        format!(r#"{{"{0}":"{0}","x":{1}}}"#, "k".repeat(TOKEN_BYTES + 1), "1".repeat(TOKEN_BYTES + 1));
    let mut spans = Spans(long.as_bytes(), 0);
    assert_eq!(Scan::default().feed(long.as_bytes(), &mut spans), Progress::Done);
    assert_eq!(spans.1, 4);
}

#[test]
fn a_text_comes_without_its_escapes() {
    let token = |raw, escaped, whole| Token { raw, whole, escaped, start: 0, end: 0 };
    assert_eq!(token(b"gpt\\u002d4o", true, true).text().as_deref(), Some("gpt-4o"));
    assert_eq!(token("é".as_bytes(), false, true).text().as_deref(), Some("é"));
    assert_eq!(token(b"\xff", false, true).text(), None);
    assert_eq!(token(b"\\ud800", true, true).text(), None);
    assert_eq!(token(b"gpt", false, false).text(), None);
}

#[test]
fn what_is_no_json_is_bad() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[",
        "{]",
        "[}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "[1,]",
        "[,1]",
        "{,}",
        "{\"a\" 1}",
        "tru",
        "trux",
        "nul",
        "01",
        "-",
        "1.",
        "1e",
        "1e+",
        ".5",
        "+1",
        "\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\u{1}\"",
        "{a:1}",
        "{'a':1}",
        "1 2",
        "{} {}",
        "{}x",
        "[1 2]",
        "\u{feff}{}",
        "nan",
        "{\"a\":1 \"b\":2}",
        "// c\n{}",
    ] {
        assert_eq!(read(&[text.as_bytes()]).0, Progress::Bad, "{text:?}");
    }
    for text in ["{}", " [ ] ", "0", "-0.0e-10", "\"\"", "true", "null\n", "[[[]]]", "{\"\":{}}"] {
        assert_eq!(read(&[text.as_bytes()]).0, Progress::Done, "{text:?}");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(read(&[nested(64).as_bytes()]).0, Progress::Done);
    assert_eq!(read(&[nested(65).as_bytes()]).0, Progress::Bad);
    assert_eq!(read(&[nested(1_000_000).as_bytes()]).0, Progress::Bad);
}

#[test]
fn plain_text_is_found_eight_bytes_at_a_time() {
    for special in [b'"', b'\\', 0, 0x1f] {
        for at in 0..40 {
            for filler in [b' ', b'a', 0x7f, 0x80, 0xff, b'!', b'#', b'[', b']'] {
                let mut bytes = vec![filler; 40];
                bytes[at] = special;
                assert_eq!(plain_bytes(&bytes), at, "{special} at {at} in {filler}");
            }
        }
    }
    assert_eq!(plain_bytes(&[0x80; 17]), 17);
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_end_the_same(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b'"'), Just(b':'), Just(b','), Just(b'\\'), Just(b'1'), Just(b'e'),
            Just(b'-'), Just(b'.'), Just(b't'), Just(b'u'), Just(b' '), any::<u8>(),
        ], 0..60),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = read(&[&bytes]);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for end in ends {
            pieces.push(&bytes[from..end]);
            from = end;
        }
        prop_assert_eq!(read(&pieces), whole.clone());
        if std::str::from_utf8(&bytes).is_ok_and(|text| !text.contains("\\u")) {
            let valid = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
            prop_assert_eq!(whole.0 == Progress::Done, valid);
        }
    }
}
