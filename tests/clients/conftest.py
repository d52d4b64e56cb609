"""A gateway for each test: Envoy with the filter and two mock providers, from the harness."""

import json
import pathlib
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

ROOT = pathlib.Path(__file__).parents[2]

# The keys that clients bring. They are the gateway's business, if anybody's, and no provider's.
CLIENT_KEY = "sk-the-clients-own"


class Provider:
    """A mock provider, controlled over HTTP."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/_mock"

    def behave(self, **behaviour: Any) -> None:
        """See `Behaviour` in harness/src/provider/behaviour.rs."""
        self._ask("PUT", "behaviour", behaviour)

    def fail(self, status: int, **headers: str) -> None:
        """Answers everything with an error; `_` in names of headers is `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.behave(fault={"kind": "status", "status": status, "headers": named})

    def requests(self) -> list[dict[str, Any]]:
        """The requests that it has received."""
        return self._ask("GET", "requests")["requests"]

    def keys(self) -> list[str]:
        """The keys that it was asked with."""
        return [request["key"] for request in self.requests()]

    def _ask(self, method: str, resource: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}/{resource}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


class Gateway:
    """A running Envoy with its providers."""

    def __init__(self, ports: dict[str, Any]) -> None:
        self.url = f"http://127.0.0.1:{ports['envoy']}/v1"
        self.v1 = Provider(ports["v1"])
        self.v2 = Provider(ports["v2"])

    def client(self, **options: Any) -> OpenAI:
        """The official client, without retries of its own unless asked for."""
        return OpenAI(base_url=self.url, api_key=CLIENT_KEY, **{"max_retries": 0, "timeout": 20, **options})

    def anthropic(self, **options: Any) -> Anthropic:
        """The official Anthropic client, likewise."""
        url = self.url.removesuffix("/v1")
        credential = {} if "auth_token" in options else {"api_key": CLIENT_KEY}
        return Anthropic(base_url=url, **{"max_retries": 0, "timeout": 20, **credential, **options})


def config() -> dict[str, Any]:
    """Everybody gets v1; `x-test-version: v2` gets v2."""
    forced = {"headers": [{"name": "x-test-version", "exact": "v2"}], "version": "v2"}
    return {
        "deployments": [
            {
                "name": "clients",
                "stable": "v1",
                "versions": [
                    {"id": "v1", "weight": 100, "cluster": "openai", "key_pool": "openai"},
                    {"id": "v2", "weight": 0, "cluster": "relay", "key_pool": "relay"},
                ],
                "rules": [forced],
            }
        ],
        "key_pools": [
            {"name": "openai", "keys": [{"id": "one", "value": "sk-pool-openai"}]},
            {"name": "relay", "keys": [{"id": "one", "value": "sk-pool-relay"}]},
        ],
    }


@contextmanager
def start(router_config: dict[str, Any]) -> Iterator[Gateway]:
    """Runs a gateway with this configuration."""
    command = ["cargo", "run", "--quiet", "--package", "bellwether-harness", "--", "stand"]
    command += ["--router-config", json.dumps(router_config)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        # It ends when its input is closed, which happens at the end of `with` and also if this process is killed.
        line = process.stdout.readline()
        assert line, "the stand has not started; its error is above"
        yield Gateway(json.loads(line))


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway of this test's own, so that no key cools down and no release is rolled back for another."""
    with start(config()) as running:
        yield running
