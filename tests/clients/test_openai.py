"""The gateway as the official OpenAI client sees it."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from conftest import CLIENT_KEY, Gateway, config, start

HELLO: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
TO_V2 = {"x-test-version": "v2"}


def text_of(stream: openai.Stream[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_a_completion_is_answered(gateway: Gateway) -> None:
    answer = gateway.client().chat.completions.create(**HELLO)
    assert answer.choices[0].message.content.startswith("hello from v1")
    assert answer.usage.total_tokens == 12
    assert {model.id for model in gateway.client().models.list()} == {"gpt-4o", "gpt-4o-mini"}


def test_a_stream_arrives_chunk_by_chunk(gateway: Gateway) -> None:
    gateway.v1.behave(chunks=6, chunk_delay_ms=100)
    arrivals, words = [], []
    for chunk in gateway.client().chat.completions.create(**HELLO, stream=True):
        if chunk.choices[0].delta.content:
            arrivals.append(time.monotonic())
            words.append(chunk.choices[0].delta.content)
    assert words[0] == "hello from v1" and len(words) == 6
    gaps = [later - earlier for earlier, later in zip(arrivals, arrivals[1:])]
    # The provider waits 100 ms before each. A buffer on the way would let them come at once; a busy machine, some of them.
    assert arrivals[-1] - arrivals[0] > 0.3 and sum(gap > 0.05 for gap in gaps) >= 3, gaps


def test_the_usage_at_the_end_of_a_stream_arrives(gateway: Gateway) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(gateway.client().chat.completions.create(**HELLO, **options))
    assert chunks[-1].usage.total_tokens == 12


@pytest.mark.parametrize("headers, version, key", [({}, "v1", "sk-pool-openai"), (TO_V2, "v2", "sk-pool-relay")])
def test_the_pools_key_reaches_the_provider_and_the_clients_does_not(
    gateway: Gateway, headers: dict[str, str], version: str, key: str
) -> None:
    client = gateway.client(default_headers={"x-api-key": CLIENT_KEY, "api-key": CLIENT_KEY})
    client.chat.completions.create(**HELLO, extra_headers=headers)
    provider = getattr(gateway, version)
    assert provider.keys() == [key]
    assert CLIENT_KEY not in json.dumps(provider.requests())


def test_the_version_is_visible_in_the_raw_response(gateway: Gateway) -> None:
    completions = gateway.client().chat.completions
    raw = completions.with_raw_response.create(**HELLO)
    assert raw.headers["x-bellwether-version"] == "v1"
    assert raw.parse().choices[0].message.content.startswith("hello from v1")
    with completions.with_streaming_response.create(**HELLO, stream=True, extra_headers=TO_V2) as raw:
        assert raw.headers["x-bellwether-version"] == "v2"


@pytest.mark.parametrize("stream", [False, True])
def test_a_header_forces_the_canary(gateway: Gateway, stream: bool) -> None:
    answer = gateway.client().chat.completions.create(**HELLO, stream=stream, extra_headers=TO_V2)
    text = text_of(answer) if stream else answer.choices[0].message.content
    assert text.startswith("hello from v2")
    assert gateway.v1.requests() == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_canary_raises_the_providers_error(stream: bool) -> None:
    without_failover = config()
    without_failover["deployments"][0]["failover"] = False
    with start(without_failover) as gateway:
        gateway.v2.fail(500)
        with pytest.raises(openai.InternalServerError) as raised:
            gateway.client().chat.completions.create(**HELLO, stream=stream, extra_headers=TO_V2)
        assert raised.value.status_code == 500
        assert raised.value.body["message"].startswith("mock provider answers 500")
        assert raised.value.response.headers["x-bellwether-version"] == "v2"


def test_the_clients_own_retry_finds_a_canary_rolled_back() -> None:
    guarded = config()
    guarded["deployments"][0]["failover"] = False
    # One request is three attempts, by Envoy's retries.
    guarded["deployments"][0]["guard"] = {"max_consecutive_errors": 3}
    with start(guarded) as gateway:
        gateway.v2.fail(500)
        answer = gateway.client(max_retries=1).chat.completions.create(**HELLO, extra_headers=TO_V2)
        assert answer.choices[0].message.content.startswith("hello from v1")
        assert len(gateway.v2.requests()) == 3


def test_a_stream_that_breaks_off_is_an_error_and_not_a_short_answer(gateway: Gateway) -> None:
    gateway.v1.behave(chunks=5, fault={"kind": "reset_after", "chunks": 3})
    with pytest.raises(openai.APIError):
        text_of(gateway.client().chat.completions.create(**HELLO, stream=True))


def test_a_rate_limit_is_a_rate_limit_error_with_the_time_to_wait(gateway: Gateway) -> None:
    gateway.v1.fail(429, retry_after="7")
    with pytest.raises(openai.RateLimitError) as raised:
        gateway.client().chat.completions.create(**HELLO)
    assert 0 < int(raised.value.response.headers["retry-after"]) <= 7


def test_the_clients_own_retry_waits_as_long_as_the_gateway_says(gateway: Gateway) -> None:
    gateway.v1.fail(429, retry_after="3")
    with pytest.raises(openai.RateLimitError):
        gateway.client().chat.completions.create(**HELLO)
    gateway.v1.behave()
    refused = len(gateway.v1.requests())
    began = time.monotonic()
    answer = gateway.client(max_retries=1).chat.completions.create(**HELLO)
    assert answer.choices[0].message.content.startswith("hello from v1")
    # The gateway itself says how long, since the pool has no other key: without its header the client would wait half a second
    # and give up on the second 429.
    assert time.monotonic() - began > 1 and len(gateway.v1.requests()) == refused + 1


def test_a_key_that_the_provider_rejects_is_replaced_by_another() -> None:
    two_keys = config()
    two_keys["key_pools"][0]["keys"] = [
        {"id": "bad", "value": "sk-pool-bad", "weight": 1000},
        {"id": "good", "value": "sk-pool-good", "weight": 1},
    ]
    with start(two_keys) as gateway:
        gateway.v1.behave(keys={"sk-pool-bad": {"status": 401}})
        for _ in range(10):
            gateway.client().chat.completions.create(**HELLO)
        assert set(gateway.v1.keys()) == {"sk-pool-bad", "sk-pool-good"}


def test_without_a_usable_key_the_error_names_the_reason() -> None:
    keyless = config()
    for pool in keyless["key_pools"]:
        pool["keys"] = [{"id": "absent", "value": {"secret": "not-there-yet"}}]
    with start(keyless) as gateway:
        with pytest.raises(openai.InternalServerError) as raised:
            gateway.client().chat.completions.create(**HELLO)
        assert (raised.value.status_code, raised.value.code) == (503, "keys_unavailable")
        assert raised.value.type == "server_error"
        assert gateway.v1.requests() == gateway.v2.requests() == []


def test_an_error_of_the_callers_is_passed_on(gateway: Gateway) -> None:
    gateway.v1.fail(400)
    with pytest.raises(openai.BadRequestError):
        gateway.client().chat.completions.create(**HELLO)
    assert len(gateway.v1.requests()) == 1, "it would fail again, so nobody tries"


def test_many_concurrent_requests_are_all_answered(gateway: Gateway) -> None:
    client = gateway.client()

    def ask(n: int) -> str:
        return text_of(client.chat.completions.create(**HELLO, stream=True, extra_headers=TO_V2 if n % 2 else {}))

    with ThreadPoolExecutor(16) as threads:
        texts = list(threads.map(ask, range(100)))
    assert all(text.startswith(f"hello from v{2 if n % 2 else 1}") for n, text in enumerate(texts))
