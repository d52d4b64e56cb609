"""The gateway as the official Anthropic client sees it: the key of this provider is not in `authorization`."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import anthropic
import pytest
from conftest import CLIENT_KEY, Gateway, config, start

HELLO: dict[str, Any] = {
    "model": "claude-mock",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}
KEYS = ["sk-ant-one", "sk-ant-two"]


def x_api_key(keys: list[str]) -> dict[str, Any]:
    """Stable has keys in `x-api-key`, the canary, a relay, in `authorization`."""
    document = config()
    document["key_pools"][0] = {
        "name": "openai",
        "header": "x-api-key",
        "prefix": "",
        "keys": [{"id": key, "value": key} for key in keys],
    }
    return document


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with start(x_api_key(KEYS[:1])) as running:
        yield running


def header(request: dict[str, Any], name: str) -> str | None:
    return dict(request["headers"]).get(name)


@pytest.mark.parametrize("auth", [{}, {"auth_token": CLIENT_KEY}])
def test_the_pools_key_goes_into_its_own_header(gateway: Gateway, auth: dict[str, str]) -> None:
    client = gateway.anthropic(**auth)
    message = client.messages.create(**HELLO)
    assert message.content[0].text.startswith("hello from v1")
    assert message.usage.output_tokens == 3
    [request] = gateway.v1.requests()
    assert (header(request, "x-api-key"), header(request, "authorization")) == ("sk-ant-one", None)
    assert CLIENT_KEY not in json.dumps(request)


def test_a_message_is_streamed(gateway: Gateway) -> None:
    with gateway.anthropic().messages.stream(**HELLO) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_message().stop_reason == "end_turn"
    assert text == "hello from v1 word1 word2"
    assert gateway.v1.keys() == ["sk-ant-one"]


@pytest.mark.parametrize("status, error", [(529, anthropic.InternalServerError), (400, anthropic.BadRequestError)])
def test_the_providers_error_reaches_the_client(gateway: Gateway, status: int, error: type[Exception]) -> None:
    gateway.v1.fail(status)
    with pytest.raises(error) as raised:
        gateway.anthropic().messages.create(**HELLO)
    assert raised.value.body["type"] == "error"


@pytest.mark.parametrize("status", [401, 429])
def test_a_key_that_is_refused_or_limited_costs_no_request(status: int) -> None:
    with start(x_api_key(KEYS)) as gateway:
        gateway.v1.behave(keys={"sk-ant-one": {"status": status}})
        for _ in range(20):
            gateway.anthropic().messages.create(**HELLO)
        assert gateway.v1.keys().count("sk-ant-one") <= 2 and gateway.v1.keys().count("sk-ant-two") == 20


def test_the_reset_of_the_exhausted_dimension_is_waited_for(gateway: Gateway) -> None:
    reset = datetime.now(timezone.utc) + timedelta(seconds=200)
    later = reset + timedelta(seconds=200)
    gateway.v1.fail(
        429,
        anthropic_ratelimit_requests_remaining="0",
        anthropic_ratelimit_requests_reset=reset.strftime("%Y-%m-%dT%H:%M:%SZ"),
        anthropic_ratelimit_tokens_remaining="5000",
        anthropic_ratelimit_tokens_reset=later.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    with pytest.raises(anthropic.RateLimitError):
        gateway.anthropic().messages.create(**HELLO)
    # The only key is out: from here on the gateway answers.
    with pytest.raises(anthropic.RateLimitError) as raised:
        gateway.anthropic().messages.create(**HELLO)
    assert 150 < int(raised.value.response.headers["retry-after"]) <= 201


@pytest.mark.parametrize("stream", [False, True])
def test_a_canary_whose_key_is_in_another_header_fails_over_and_leaves_nothing_behind(
    gateway: Gateway, stream: bool
) -> None:
    gateway.v2.fail(503)
    forced = {"x-test-version": "v2"}
    if stream:
        with gateway.anthropic().messages.stream(**HELLO, extra_headers=forced) as answer:
            text = "".join(answer.text_stream)
    else:
        text = gateway.anthropic().messages.create(**HELLO, extra_headers=forced).content[0].text
    assert text.startswith("hello from v1")
    [canary], [stable] = gateway.v2.requests(), gateway.v1.requests()
    assert (header(canary, "authorization"), header(canary, "x-api-key")) == ("Bearer sk-pool-relay", None)
    assert (header(stable, "authorization"), header(stable, "x-api-key")) == (None, "sk-ant-one")
