//! Headers of any bytes: of a request, which is routed, and of a response, which says when to come again.
//!
//! Lines: the client's address first, then `name: value`. Names in lower case, as Envoy hands them over.

use std::time::{Duration, SystemTime};

use bellwether::admin;
use bellwether::hash::hash;
use bellwether::headers::Headers;
use bellwether::keys::reset;
use bellwether::plan::matching::Asked;
use bellwether::plan::matching::address_without_port;
use bellwether::route::{RequestFacts, candidates, rewritten_path};
use bellwether::time::{Millis, UnixMillis};

use super::exercise::{WALL, permitted};
use super::samples::plans;

/// A wait is clamped to a day.
const DAY: Millis = Millis(86_400_000);

pub fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let address = lines.next().unwrap_or_default();
    let pairs: Vec<(String, Vec<u8>)> = lines.take(32).map(pair).collect();
    request(address, &pairs);
    response(&pairs);
    proxys_form(data, &pairs);
}

/// Headers as the proxy hands them over, and bytes that it never would.
fn proxys_form(data: &[u8], pairs: &[(String, Vec<u8>)]) {
    let number = |n: usize| u32::try_from(n).expect("short").to_le_bytes();
    let mut form = number(pairs.len()).to_vec();
    pairs.iter().for_each(|(name, value)| form.extend([number(name.len()), number(value.len())].concat()));
    pairs.iter().for_each(|(name, value)| form.extend([name.as_bytes(), b"\0", value, b"\0"].concat()));
    let sent = || pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
    let whole = Headers::parse(form.clone());
    assert!(whole.iter().eq(sent()));
    form.truncate(form.len().saturating_sub(data.len() % 64));
    let cut = Headers::parse(form);
    assert!(cut.iter().zip(sent()).all(|(read, sent)| read == sent));

    let read = Headers::parse(data.to_vec());
    let bytes: usize = read.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    assert!(bytes <= data.len());
    for headers in [read, Headers::new(pairs.to_vec())] {
        if let Err(refusal) = admin::request(&headers, &["ops.example.com".to_owned()]) {
            assert!((400..500).contains(&refusal.status));
            assert!(refusal.body().len() < 1000);
        }
    }
}

fn pair(line: &[u8]) -> (String, Vec<u8>) {
    let colon = line.iter().skip(1).position(|byte| *byte == b':').map_or(line.len(), |at| at + 1);
    let (name, value) = line.split_at(colon);
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    (name, value.strip_prefix(b":").unwrap_or(value).trim_ascii().to_vec())
}

fn request(address: &[u8], pairs: &[(String, Vec<u8>)]) {
    let bare = address_without_port(address);
    assert!(address.windows(bare.len().max(1)).any(|part| part == bare) || bare.is_empty());
    let random = hash(&[address]);
    let headers = Headers::new(pairs.to_vec());
    let mut more = pairs.to_vec();
    more.insert(0, ("x-nobody-asks".to_owned(), b"1".to_vec()));
    let more = Headers::new(more);
    for plan in plans() {
        assert_eq!(candidates(plan, &headers), candidates(plan, &more));
        for deployment in &plan.deployments {
            let facts = RequestFacts {
                headers: &headers,
                client_address: &|| Some(bare.to_vec()),
                random,
                asked: Asked::default(),
            };
            for shut in [0, 0b10, 0xffff] {
                permitted(deployment, &facts, shut);
            }
            for (version, path) in
                deployment.versions.iter().flat_map(|v| headers.all(":path").map(move |p| (v, p)))
            {
                let rewritten = rewritten_path(version, path);
                let begins = version.rewrite_prefix.as_ref().filter(|r| path.starts_with(r.from.as_bytes()));
                if begins.is_none() && version.query.is_empty() && !path.contains(&b'?') {
                    assert_eq!(rewritten, None);
                }
                // A path that was rewritten once keeps its query.
                let query = |path: &[u8]| path.iter().position(|b| *b == b'?').map(|at| path[at..].to_vec());
                if let Some(once) = rewritten {
                    let twice = rewritten_path(version, &once).unwrap_or_else(|| once.clone());
                    assert_eq!(query(&twice), query(&once));
                }
            }
        }
    }
}

fn response(pairs: &[(String, Vec<u8>)]) {
    let all = || pairs.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    for now in [0, WALL, u64::MAX] {
        assert!(reset::limit(all(), UnixMillis(now)).wait().is_none_or(|wait| wait <= DAY));
    }
    for (_, value) in pairs {
        // An HTTP date, read an hour before: what we read of it is what a library for such dates reads.
        let Ok(Ok(then)) = std::str::from_utf8(value).map(|text| httpdate::parse_http_date(text.trim()))
        else {
            continue;
        };
        let Ok(since) = then.duration_since(SystemTime::UNIX_EPOCH) else { continue };
        let Some(before) = since.checked_sub(Duration::from_secs(3600)) else { continue };
        let now = UnixMillis(u64::try_from(before.as_millis()).expect("a year of four digits"));
        let wait = reset::limit([("retry-after", value.as_slice())].into_iter(), now).wait();
        assert!(wait.is_none_or(|wait| wait == Millis(3_600_000)), "{wait:?}");
    }
}
