use super::*;
use crate::outcome::blame::KeyOutcome;
use crate::plan::pool::KeyRef;

const MS: u64 = 1000;

fn errors() -> BadOutcomes {
    BadOutcomes { server_errors: true, reset: true, timeout: true, ..BadOutcomes::default() }
}

fn attempts() -> Attempts {
    Attempts::new(Micros(0), Some(Millis(1000)))
}

fn answered(outcome: Outcome, latency: Option<u64>) -> Option<Event> {
    Some(Event::Answered { outcome, latency: latency.map(Span) })
}

fn finish(attempts: &mut Attempts, ending: Ending, at: u64) -> (Outcome, Vec<Judgement>) {
    let mut judged = Vec::new();
    let outcome = attempts.finish(end(ending, at), &errors(), &mut judged);
    (outcome, judged)
}

fn end(ending: Ending, at: u64) -> RequestEnd {
    RequestEnd { ending, carried: Carried::default(), now: Micros(at) }
}

/// Records an answer that the router saw, for a request without a key.
fn router_answer(attempts: &mut Attempts, status: u16, from_upstream: bool, at: u64) -> Option<Judgement> {
    let answer = RouterAnswer { headers: headers(status), from_upstream };
    attempts.record_router_answer(answer, Carried::default(), Micros(at), &errors())
}

/// Returns the headers of an answer, with the refusal of a key by the default statuses.
fn headers(status: u16) -> AnswerHeaders {
    let on_key = match status {
        401 | 403 => KeyAnswer::Refused(Refusal::Rejected),
        402 => KeyAnswer::Refused(Refusal::Exhausted),
        429 => KeyAnswer::Refused(Refusal::Limited),
        _ => KeyAnswer::Silent,
    };
    AnswerHeaders { status, on_key }
}

fn key_of(key: usize) -> Carried {
    Carried { key: Some(KeyRef { pool: 0, key }), ..Carried::default() }
}

fn begin(attempts: &mut Attempts, at: u64, key: usize) -> (usize, Vec<Judgement>) {
    let mut judged = Vec::new();
    let n = attempts.begin(Micros(at), key_of(key), &errors(), &mut judged);
    (n, judged)
}

#[test]
fn an_attempt_that_failed_without_headers_has_no_answer_of_an_upstream() {
    let mut f = attempts();
    let (n, _) = begin(&mut f, 0, 0);
    assert_eq!(f.settle_failed(n, Micros(MS), &errors()).map(|j| j.outcome), Some(Some(Outcome::Bad)));
    assert!(!f.has_last_headers() && !f.upstream_answered(), "no upstream answered");
    assert_eq!(router_answer(&mut f, 503, false, MS), None, "Envoy's own answer");
    assert!(!f.upstream_answered());
    assert_eq!(finish(&mut f, Ending::Reset, 2 * MS), (Outcome::Bad, vec![]));
}

#[test]
fn a_good_attempt_counts_at_its_headers_and_completes_at_its_end() {
    let mut f = attempts();
    let (n, earlier) = begin(&mut f, MS, 3);
    assert!(earlier.is_empty());
    let at_headers = f.record_headers(n, headers(200), Micros(20 * MS), &errors()).unwrap();
    assert_eq!(at_headers.event, answered(Outcome::Good, Some(20 * MS)));
    assert_eq!(at_headers.outcome, None, "not over yet");
    let (outcome, judged) = finish(&mut f, Ending::Complete, 90 * MS);
    assert_eq!(outcome, Outcome::Good);
    assert_eq!(judged.len(), 1);
    assert_eq!((judged[0].event, judged[0].outcome), (Some(Event::Completed), Some(Outcome::Good)));
    assert_eq!(judged[0].carried, key_of(3));
}

#[test]
fn a_stream_that_breaks_is_bad_at_its_end() {
    for ending in [Ending::Reset, Ending::Timeout] {
        let mut f = attempts();
        let (n, _) = begin(&mut f, 0, 0);
        f.record_headers(n, headers(200), Micros(MS), &errors());
        let (outcome, judged) = finish(&mut f, ending, 9 * MS);
        assert_eq!((outcome, judged[0].event), (Outcome::Bad, Some(Event::Broke)), "{ending:?}");
    }
}

#[test]
fn only_a_whole_answer_says_that_a_key_works() {
    let says = |status: u16, ending: Ending| {
        let mut f = attempts();
        let (n, mut judged) = begin(&mut f, 0, 0);
        judged.extend(f.record_headers(n, headers(status), Micros(MS), &errors()));
        judged.extend(finish(&mut f, ending, 9 * MS).1);
        judged.iter().filter_map(|judgement| judgement.key_outcome()).collect::<Vec<_>>()
    };
    assert_eq!(says(200, Ending::Complete), [KeyOutcome::Accepted, KeyOutcome::Completed]);
    assert_eq!(says(200, Ending::Reset), [KeyOutcome::Accepted, KeyOutcome::Broke]);
    assert_eq!(says(200, Ending::Cancelled), [KeyOutcome::Accepted], "its end is unknown");
    assert_eq!(says(503, Ending::Complete), [KeyOutcome::Failed]);
    assert_eq!(
        says(400, Ending::Complete),
        [KeyOutcome::Inconclusive],
        "the provider may not have looked at the key"
    );
    assert_eq!(says(401, Ending::Complete), [], "the request may be the reason");
}

#[test]
fn a_canary_that_envoy_skips_has_failed_and_stable_has_served() {
    let mut f = attempts();
    let mut judged = Vec::new();
    judged.extend(f.record_skipped(Micros(MS), &errors()));
    assert_eq!(judged.len(), 1);
    assert_eq!((judged[0].event, judged[0].outcome), (answered(Outcome::Bad, None), Some(Outcome::Bad)));
    assert_eq!(judged[0].carried, Carried::default(), "it carried no key");
    assert_eq!(f.count_on_assigned(), 1);
    let stable = Carried { to_stable: true, ..key_of(1) };
    let n = f.begin(Micros(MS), stable, &errors(), &mut judged);
    assert_eq!(judged.len(), 1, "once");
    let good = f.record_headers(n, headers(200), Micros(3 * MS), &errors()).unwrap();
    assert_eq!((good.event, good.carried), (answered(Outcome::Good, Some(2 * MS)), stable));
    assert!(f.served_by_stable());
    assert_eq!(finish(&mut f, Ending::Complete, 4 * MS).0, Outcome::Good);
}

#[test]
fn a_client_that_leaves_a_stream_judges_nobody() {
    let mut f = attempts();
    let (n, _) = begin(&mut f, 0, 0);
    f.record_headers(n, headers(200), Micros(MS), &errors());
    let (outcome, judged) = finish(&mut f, Ending::Cancelled, 9 * MS);
    assert_eq!((outcome, judged[0].event), (Outcome::Cancelled, None));
}

#[test]
fn an_attempt_that_envoy_retried_still_counts_against_its_version() {
    let mut f = attempts();
    let (first, _) = begin(&mut f, 0, 0);
    let bad = f.record_headers(first, headers(503), Micros(5 * MS), &errors()).unwrap();
    assert_eq!((bad.event, bad.outcome), (answered(Outcome::Bad, None), Some(Outcome::Bad)));
    let (second, earlier) = begin(&mut f, 30 * MS, 1);
    assert!(earlier.is_empty(), "already settled");
    let good = f.record_headers(second, headers(200), Micros(40 * MS), &errors()).unwrap();
    assert_eq!(good.event, answered(Outcome::Good, Some(10 * MS)), "a retry is timed from its beginning");
    let (outcome, judged) = finish(&mut f, Ending::Complete, 50 * MS);
    assert_eq!((outcome, judged.len()), (Outcome::Good, 1));
    assert_eq!(f.tried_keys(0), [0, 1]);
}

#[test]
fn an_attempt_without_an_answer_is_settled_by_the_next() {
    let mut f = attempts();
    begin(&mut f, 0, 0);
    let (_, earlier) = begin(&mut f, 30 * MS, 1);
    assert_eq!(earlier.len(), 1);
    assert_eq!(earlier[0].event, answered(Outcome::Bad, None));
    assert_eq!(earlier[0].carried, key_of(0));
}

#[test]
fn an_unanswered_attempt_waits_only_where_reset_and_timeout_differ() {
    let mut f = attempts();
    let (n, _) = begin(&mut f, 0, 0);
    assert!(f.settle_failed(n, Micros(MS), &errors()).is_some());
    assert!(f.settle_failed(n, Micros(MS), &errors()).is_none(), "once only");
    let only_timeouts = BadOutcomes { timeout: true, ..BadOutcomes::default() };
    let mut f = attempts();
    let n = f.begin(Micros(0), Carried::default(), &only_timeouts, &mut Vec::new());
    assert!(f.settle_failed(n, Micros(MS), &only_timeouts).is_none());
    let outcome = f.finish(end(Ending::Reset, MS), &only_timeouts, &mut Vec::new());
    assert_eq!(outcome, Outcome::Good, "a reset is not among the errors");
}

#[test]
fn a_timeout_counts_with_the_time_it_took() {
    let mut f = attempts();
    begin(&mut f, 0, 0);
    let (outcome, judged) = finish(&mut f, Ending::Timeout, 3000 * MS);
    assert_eq!(outcome, Outcome::Bad);
    assert_eq!(judged[0].event, answered(Outcome::Bad, Some(3000 * MS)));
}

#[test]
fn a_client_that_leaves_counts_as_slow_only_past_the_latency_limit() {
    for (left_at, latency) in [(900 * MS, None), (1200 * MS, Some(1200 * MS))] {
        let mut f = attempts();
        let (n, _) = begin(&mut f, 0, 0);
        let judged = f.settle_abandoned(n, Ending::Cancelled, Micros(left_at), &errors()).unwrap();
        assert_eq!(judged.event, answered(Outcome::Cancelled, latency));
        assert!(finish(&mut f, Ending::Cancelled, left_at).1.is_empty(), "settled once");
    }
}

#[test]
fn without_the_keys_role_the_routers_view_stands_in() {
    let mut f = attempts();
    let good = router_answer(&mut f, 200, true, 20 * MS).unwrap();
    assert_eq!(good.event, answered(Outcome::Good, Some(20 * MS)));
    assert_eq!(finish(&mut f, Ending::Complete, 30 * MS).0, Outcome::Good);

    let mut f = attempts();
    assert!(router_answer(&mut f, 500, true, 20 * MS).is_none());
    let (outcome, judged) = finish(&mut f, Ending::Complete, 30 * MS);
    assert_eq!((outcome, judged[0].event), (Outcome::Bad, answered(Outcome::Bad, None)));

    let mut f = attempts();
    assert!(router_answer(&mut f, 503, false, MS).is_none());
    let (outcome, judged) = finish(&mut f, Ending::Reset, MS);
    assert_eq!((outcome, judged[0].event), (Outcome::Bad, answered(Outcome::Bad, None)));
}

#[test]
fn an_answer_of_envoy_before_any_attempt_judges_nobody() {
    let mut f = attempts();
    router_answer(&mut f, 403, false, MS);
    assert_eq!(finish(&mut f, Ending::Local, MS), (Outcome::Local, vec![]));
}

#[test]
fn an_attempt_that_the_circuit_breaker_forbids_does_not_count() {
    let mut f = attempts();
    begin(&mut f, 0, 0);
    router_answer(&mut f, 503, false, MS);
    assert_eq!(finish(&mut f, Ending::Overflow, MS), (Outcome::Local, vec![]));

    let mut f = attempts();
    let (first, _) = begin(&mut f, 0, 0);
    f.record_headers(first, headers(503), Micros(MS), &errors());
    begin(&mut f, 2 * MS, 1);
    assert_eq!(
        finish(&mut f, Ending::Overflow, 2 * MS),
        (Outcome::Bad, vec![]),
        "the earlier attempt counts"
    );
}

#[test]
fn an_attempt_is_never_local_once_it_was_made() {
    let mut f = attempts();
    begin(&mut f, 0, 0);
    router_answer(&mut f, 503, false, MS);
    let (outcome, judged) = finish(&mut f, Ending::Local, MS);
    assert_eq!((outcome, judged.len()), (Outcome::Bad, 1));
}

#[test]
fn the_time_of_an_upload_is_no_latency() {
    let mut f = attempts();
    let (first, _) = begin(&mut f, 0, 0);
    f.record_request_end(Micros(50 * MS));
    f.record_request_end(Micros(70 * MS));
    assert_eq!(f.waiting_since(), Micros(50 * MS), "it ends once");
    let judged = f.record_headers(first, headers(200), Micros(80 * MS), &errors()).unwrap();
    assert_eq!(judged.event, answered(Outcome::Good, Some(30 * MS)));
    assert_eq!(judged.began, Micros(0), "its key was chosen at the beginning");

    let mut f = attempts();
    begin(&mut f, 0, 0);
    let (second, _) = begin(&mut f, 20 * MS, 1);
    f.record_request_end(Micros(50 * MS));
    let judged = f.record_headers(second, headers(200), Micros(60 * MS), &errors()).unwrap();
    assert_eq!(judged.event, answered(Outcome::Good, Some(10 * MS)), "a retry during the upload");

    let mut f = attempts();
    f.record_request_end(Micros(5 * MS));
    begin(&mut f, 0, 0);
    let (second, _) = begin(&mut f, 20 * MS, 1);
    let judged = f.record_headers(second, headers(200), Micros(60 * MS), &errors()).unwrap();
    assert_eq!(judged.event, answered(Outcome::Good, Some(40 * MS)), "a retry after the upload");
}

#[test]
fn a_request_that_did_not_come_to_its_end_judges_nobody() {
    for flag in [Ending::Timeout, Ending::Local] {
        let mut f = attempts();
        begin(&mut f, 0, 1);
        assert_eq!(router_answer(&mut f, 408, false, 9_000 * MS), None);
        let (outcome, judged) = finish(&mut f, flag, 9_000 * MS);
        assert_eq!(outcome, Outcome::Cancelled);
        assert_eq!(judged.len(), 1);
        // It has lasted longer than the latency limit, and that is the client's fault too.
        assert_eq!(judged[0].event, answered(Outcome::Cancelled, None));
        assert_eq!(judged[0].key_outcome(), Some(KeyOutcome::Inconclusive));
    }
    // A provider's own 408 is an answer like any other.
    let mut f = attempts();
    let (n, _) = begin(&mut f, 0, 1);
    f.record_headers(n, headers(408), Micros(MS), &errors());
    assert_eq!(finish(&mut f, Ending::Complete, MS).0, Outcome::CallerError);
}

/// Returns the keys of refusals, and whether each was alone.
fn taken(attempts: &mut Attempts) -> Vec<(usize, Refusal, bool)> {
    let refused = attempts.take_refusals();
    refused.iter().map(|r| (r.carried.key.unwrap().key, r.refusal, r.alone)).collect()
}

#[test]
fn a_refusal_waits_until_its_request_is_decided_and_is_taken_once() {
    let mut f = attempts();
    for (key, status) in [(4, 401), (5, 402), (4, 401), (6, 503)] {
        let (n, _) = begin(&mut f, MS, key);
        let judged = f.record_headers(n, headers(status), Micros(2 * MS), &errors()).unwrap();
        assert_eq!(judged.key_outcome().is_none(), status != 503, "{status} of key {key}");
    }
    assert!(f.has_refusals());
    assert_eq!(
        taken(&mut f),
        [(4, Refusal::Rejected, false), (5, Refusal::Exhausted, false)],
        "each key once"
    );
    assert!(!f.has_refusals() && taken(&mut f).is_empty());
    let (n, _) = begin(&mut f, MS, 7);
    f.record_headers(n, headers(429), Micros(2 * MS), &errors());
    assert_eq!(taken(&mut f), [(7, Refusal::Limited, false)]);
}

#[test]
fn a_request_that_tried_one_key_of_a_pool_was_refused_alone() {
    let mut f = attempts();
    let (n, _) = begin(&mut f, MS, 4);
    f.record_headers(n, headers(403), Micros(2 * MS), &errors());
    let stable = Carried { key: Some(KeyRef { pool: 1, key: 0 }), to_stable: true, ..Carried::default() };
    let n = f.begin(Micros(3 * MS), stable, &errors(), &mut Vec::new());
    f.record_headers(n, headers(200), Micros(4 * MS), &errors());
    assert_eq!(taken(&mut f), [(4, Refusal::Rejected, true)], "a key of another pool proves nothing");
}

#[test]
fn without_a_keys_role_the_routers_view_of_a_refusal_counts() {
    let mut f = attempts();
    let answer = RouterAnswer { headers: headers(401), from_upstream: true };
    assert!(f.record_router_answer(answer, key_of(2), Micros(MS), &errors()).is_none());
    assert_eq!(f.last_answer(key_of(2)).map(|answer| answer.headers.status), Some(401));
    let end = RequestEnd { carried: key_of(2), ..end(Ending::Complete, 2 * MS) };
    assert_eq!(f.finish(end, &errors(), &mut Vec::new()), Outcome::KeyRejected);
    assert_eq!(taken(&mut f), [(2, Refusal::Rejected, true)]);
}

#[test]
fn refusals_and_limits_of_keys_do_not_count_for_failover() {
    let mut f = attempts();
    for (key, status, counted) in [(0, 401, 0), (1, 429, 0), (2, 503, 1), (3, 402, 1)] {
        let (n, _) = begin(&mut f, MS, key);
        assert_eq!(f.count_on_assigned(), counted + u32::from(status != 503), "while it is open: {status}");
        f.record_headers(n, headers(status), Micros(2 * MS), &errors());
        assert_eq!(f.count_on_assigned(), counted, "after {status}");
    }
}
