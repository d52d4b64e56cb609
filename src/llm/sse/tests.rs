use proptest::prelude::*;

use super::*;

#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Log {
    events: Vec<(String, String, bool)>,
    spans: Vec<(u64, u64)>,
    comments: usize,
}

impl Receiver for Log {
    fn event(&mut self, event: Event<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.events.push((text(event.kind), text(event.data), event.whole));
        self.spans.push((event.start, event.end));
    }

    fn comment(&mut self) {
        self.comments += 1;
    }
}

fn read(pieces: &[&[u8]]) -> Log {
    let (mut events, mut log) = (Events::default(), Log::default());
    for piece in pieces {
        events.feed(piece, &mut log);
    }
    events.end(&mut log);
    log
}

/// The same by the letter of the standard, on a whole stream.
fn reference(stream: &str) -> Vec<(String, String)> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let lines = stream.replace("\r\n", "\n").replace('\r', "\n");
    let (mut out, mut kind, mut data) = (Vec::new(), String::new(), None::<String>);
    for line in lines.split('\n').chain([""]) {
        if line.is_empty() {
            if let Some(data) = data.take() {
                out.push((kind.clone(), data));
            }
            kind.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => kind = value.to_owned(),
            "data" => {
                data = Some(data.map_or_else(|| value.to_owned(), |data| data + "\n" + value));
            }
            _ => {}
        }
    }
    out
}

const STREAM: &str = "\u{feff}: ping\r\n\r\nevent: message_start\r\ndata: {\"a\":1}\r\n\r\ndata:one\ndata: two\ndata\n\n\rid: 7\r\revent:x\rdata: \u{e9}\u{1F600}\r\r\
    event: empty\n\n:\n\ndata: [DONE]\r\n\r\ndata: cut off";

#[test]
fn every_split_of_a_stream_gives_the_same_events() {
    let bytes = STREAM.as_bytes();
    let whole = read(&[bytes]);
    let plain: Vec<_> = whole.events.iter().map(|(kind, data, _)| (kind.clone(), data.clone())).collect();
    assert_eq!(plain, reference(STREAM));
    assert_eq!((plain.len(), whole.comments), (5, 2));
    for first in 0..=bytes.len() {
        let (a, rest) = bytes.split_at(first);
        for second in 0..=rest.len() {
            let (b, c) = rest.split_at(second);
            let log = read(&[a, b, c]);
            assert_eq!((&log.events, log.comments), (&whole.events, whole.comments), "{first} {second}");
        }
    }
}

#[test]
fn an_event_that_is_cut_out_leaves_the_others_as_they_are() {
    for stream in [
        "data: a\n\ndata: b\n\ndata: c\n\n",
        "data: a\r\n\r\ndata: b\r\n\r\ndata: c\r\n\r\n",
        "data: a\r\rdata: b\r\rdata: c\r\r",
    ] {
        for at in 0..=stream.len() {
            let (head, tail) = stream.as_bytes().split_at(at);
            let (start, end) = read(&[head, tail]).spans[1];
            let (start, end) = (usize::try_from(start).unwrap(), usize::try_from(end).unwrap());
            let without = [&stream.as_bytes()[..start], &stream.as_bytes()[end..]].concat();
            let data: Vec<_> = read(&[&without]).events.into_iter().map(|(_, data, _)| data).collect();
            assert_eq!(data, ["a", "c"], "{stream:?} split at {at}");
        }
    }
}

#[test]
fn a_byte_order_mark_opens_a_stream_only() {
    assert_eq!(
        read(&["\u{feff}data: a\n\u{feff}data: b\n\n".as_bytes()]).events,
        [(String::new(), "a".to_owned(), true)]
    );
}

#[test]
fn an_event_beyond_the_bound_is_marked_and_the_next_one_is_read() {
    let long = format!("data: {}\n\ndata: next\n\n", "x".repeat(EVENT_BYTES + 1));
    let lines = format!("{}\ndata: next\n\n", "data: y\n".repeat(EVENT_BYTES));
    for stream in [long, lines] {
        for size in [1000, stream.len()] {
            let pieces: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
            let log = read(&pieces);
            assert_eq!(log.events.len(), 2);
            assert!(!log.events[0].2 && log.events[0].1.len() <= EVENT_BYTES);
            assert_eq!(log.events[1], (String::new(), "next".to_owned(), true));
        }
    }
}

proptest! {
    #[test]
    fn any_stream_in_any_pieces_is_read_as_the_standard_says(
        parts in proptest::collection::vec(prop::sample::select(vec![
            "data", ":", " ", "\n", "\r", "\r\n", "event", "x", "é", "\n\n", "data: ", "id", "\u{feff}",
        ]), 0..40),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let stream = parts.concat();
        let bytes = stream.as_bytes();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let (mut pieces, mut from) = (Vec::new(), 0);
        for end in ends {
            pieces.push(&bytes[from..end]);
            from = end;
        }
        let events: Vec<_> = read(&pieces).events.into_iter().map(|(kind, data, _)| (kind, data)).collect();
        prop_assert_eq!(events, reference(&stream));
    }
}
