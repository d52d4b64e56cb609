"""The live page as Envoy serves it: it shows the rollback of a canary, and its buttons work."""

import json
import os
import pathlib
import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Open
from playwright.sync_api import expect

ROOT = pathlib.Path(__file__).parents[2]

CHAT = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}).encode()


def ask(url: str, method: str, body: Any, **headers: str) -> int:
    """The status of an answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


class Stand:
    """Envoy with the filter, two providers, and clients that go on asking."""

    def __init__(self, ports: dict[str, Any]) -> None:
        self._ports = ports
        self._ended = threading.Event()
        self.page = f"http://127.0.0.1:{ports['admin_role']}/"
        self._clients = [threading.Thread(target=self._send) for _ in range(2)]
        for client in self._clients:
            client.start()

    def _send(self) -> None:
        while not self._ended.wait(0.02):
            ask(f"http://127.0.0.1:{self._ports['envoy']}/v1/chat/completions", "POST", CHAT)

    def canary(self, **behaviour: Any) -> None:
        """See `Behaviour` in harness/src/provider/behaviour.rs."""
        ask(f"http://127.0.0.1:{self._ports['v2']}/_mock/behaviour", "PUT", behaviour)

    def stop(self) -> None:
        self._ended.set()
        for client in self._clients:
            client.join()


def config() -> dict[str, Any]:
    """Half of the requests go to the canary, so that nobody waits for a verdict."""
    names = {"v1": ("openai", "sk-stable-key-abcd"), "v2": ("relay", "sk-canary-key-wxyz")}
    versions = [{"id": id, "weight": 50, "cluster": pool, "key_pool": pool} for id, (pool, _) in names.items()]
    deployment = {"name": "gpt4-upgrade", "stable": "v1", "versions": versions, "guard": {"max_consecutive_errors": 5}}
    pools = [{"name": pool, "keys": [{"id": f"{pool}-1", "value": value}]} for pool, value in names.values()]
    return {"deployments": [deployment], "key_pools": pools}


@pytest.fixture
def stand() -> Iterator[Stand]:
    command = ["cargo", "run", "--quiet", "--package", "bellwether-harness", "--", "stand"]
    command += ["--router-config", json.dumps(config())]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        # It ends when its input is closed, which happens at the end of `with` and also if this process is killed.
        line = process.stdout.readline()
        assert line, "the stand has not started; its error is above"
        running = Stand(json.loads(line))
        try:
            yield running
        finally:
            running.stop()


def test_a_rollback_is_seen_as_it_happens_and_the_buttons_work(stand: Stand, open_page: Open) -> None:
    """With PICTURE=docs/page.png it takes its time, and the picture in the guide."""
    page = open_page(stand.page)
    verdict, events = page.locator("#verdict"), page.locator("#events > li")
    expect(page.locator("#verdict-title")).to_have_text("All is well")
    page.evaluate("window.before = true")
    canary = page.get_by_role("row").filter(has_text="v2").locator("td")
    expect(canary.nth(0)).to_have_text("50 %")
    expect(canary.nth(2)).to_have_text(re.compile("[1-9]"))
    # Keys are counted, and shown by their last four characters.
    expect(page.locator("#pools")).to_contain_text("wxyz")
    expect(page.locator("#pools li").first).to_contain_text(re.compile("[1-9][0-9]* requests"))
    assert "canary-key" not in page.content()

    picture = os.environ.get("PICTURE")
    page.wait_for_timeout(30_000 if picture else 0)
    stand.canary(fault={"kind": "status", "status": 500})
    expect(page.locator("#verdict-title")).to_have_text("Rolled back")
    expect(verdict).to_contain_text(re.compile("serves 100 %"))
    expect(canary.nth(0)).to_have_text("0 %")
    expect(canary.nth(1)).to_have_text("50 %")
    expect(events.first).to_contain_text("rolled back v2: ")
    events.first.locator("summary").click()
    expect(events.first).to_contain_text(re.compile(r"v2\u2069: [\d,]+ of [\d,]+ failed"))
    expect(page.locator("#live")).to_contain_text("is rolled back")

    if picture:
        page.wait_for_timeout(8_000)
        page.screenshot(path=picture)

    stand.canary()
    page.get_by_role("button", name="Resume…").click()
    page.get_by_role("button", name="Resume now").click()
    expect(page.locator("#verdict-title")).to_have_text("All is well")
    expect(canary.nth(0)).to_have_text("50 %")
    expect(events.first).to_contain_text("resumed v2 by hand")

    page.get_by_role("button", name="Roll back…").click()
    page.get_by_label("Reason").fill('the tone is "off" <b>')
    page.get_by_role("button", name="Roll back now").click()
    expect(page.locator("#verdict-title")).to_have_text("Rolled back")
    expect(verdict).to_contain_text('by hand: the tone is "off" <b>')
    expect(events.first).to_contain_text('rolled back v2 by hand: the tone is "off" <b>')
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate("window.before"), "all this without a reload"
