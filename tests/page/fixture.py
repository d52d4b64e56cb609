"""A server that behaves as the admin role does, with answers that a test writes."""

import json
import pathlib
import threading
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = pathlib.Path(__file__).parents[2] / "src/admin/page"

# At least as strict as the filter's policy. With trusted types, a single innerHTML anywhere would throw.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'nonce-only'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def script() -> bytes:
    """The script: both files, in the order of the filter."""
    return (PAGE / "charts.js").read_bytes() + (PAGE / "page.js").read_bytes()


def page() -> bytes:
    """The files as one document, joined as the filter does it."""
    html = (PAGE / "page.html").read_bytes().replace(b"<script", b'<script nonce="only"')
    html = html.replace(b"/*css*/", (PAGE / "page.css").read_bytes())
    return html.replace(b"/*js*/", script())


def moment(seconds_from_now: float = 0) -> str:
    """A time as the filter writes it."""
    text = datetime.fromtimestamp(time.time() + seconds_from_now, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def version(id: str, weight: float, *, stable: bool = False, share: float | None = None, **more: Any) -> dict[str, Any]:
    """A version; `share` is the effective weight where that differs."""
    return {
        "id": id, "stable": stable, "weight": weight, "effective_weight": weight if share is None else share,
        "requests": 180, "errors": 0, "error_rate": 0.0,
        "latency_ms": {"avg": 190.2, "p50": 180, "p95": 420, "p99": 1260}, **more,
    }  # fmt: skip


def deployment(name: str = "gpt4-upgrade", **more: Any) -> dict[str, Any]:
    """A deployment that does well: 90 % v1, 10 % v2."""
    return {
        "name": name, "release": "2026-11-20a", "phase": "active", "stage": None, "reason": None, "since": None,
        "versions": [version("v1", 90, stable=True), version("v2", 10)],
        "evidence": 8, "mode": "enforce", "recovery": None, **more,
    }  # fmt: skip


WHY = "7 of 9 failed while v1 failed 0 of 180"


def rolled_back(name: str = "gpt4-upgrade", since: str | None = None, **more: Any) -> dict[str, Any]:
    """The same after its canary broke."""
    broken = {"requests": 9, "errors": 7, "error_rate": 77.78}
    versions = [version("v1", 90, stable=True, share=100), version("v2", 10, share=0, **broken)]
    since = since or moment(-5)
    return deployment(
        name, **{"phase": "rolled_back", "reason": WHY, "since": since, "evidence": 100, "versions": versions, **more}
    )


def event(to: str = "rolled_back", *, seconds_ago: float = 5, name: str = "gpt4-upgrade", **more: Any) -> dict[str, Any]:
    """A transition as alerts carry it, with the sentence that `/events` adds."""
    at = moment(-seconds_ago)
    return {
        "bellwether": "transition", "time": at, "deployment": name, "release": "2026-11-20a", "version": "v2",
        "from": "active", "to": to, "stage": None, "reason": "worse_errors", "why": WHY,
        "evidence": {
            "canary": {"requests": 9, "errors": 7, "rate": 77.78, "rate_between": [28.35, 96.87]},
            "stable": {"requests": 180, "errors": 0, "rate": 0.0, "rate_between": [0.0, 5.67]},
            "score": 16.88, "limit": 16.12,
        },
        "requests": ["a1", "b2"], "epoch": 1, "id": f"{name}/2026-11-20a/v2/1/{to}/null/{at}",
        "text": f"rolled back v2: {WHY}", **more,
    }  # fmt: skip


def key(id: str, status: str = "active", **more: Any) -> dict[str, Any]:
    """A key of a pool."""
    return {
        "id": id, "mask": "…9x2F", "status": status, "weight": 1, "requests": 5210, "errors": 3,
        "last_used": moment(-2), "until": None, **more,
    }  # fmt: skip


def status(deployments: list[Any], pools: list[Any] | None = None) -> dict[str, Any]:
    """A whole status, as of now."""
    if pools is None:
        pools = [{"name": "openai", "keys": [key("prod-001"), key("prod-002")]}, {"name": "relay", "keys": [key("one")]}]
    return {"now": moment(), "deployments": deployments, "key_pools": pools}


class Admin:
    """The server. Its answers may be changed at any time; `posts` holds the orders it has received."""

    def __init__(self) -> None:
        self.deployments: list[Any] = [deployment()]
        self.pools: list[Any] | None = None
        self.warnings: list[Any] = []
        self.events: list[Any] = []
        # Whole answers in place of the above, for bodies that are no status: (HTTP status, body).
        self.instead: tuple[int, str] | None = None
        self.refuse_posts: tuple[int, str] | None = None
        # Connections are closed without an answer.
        self.down = False
        self.asked: list[str] = []
        self.posts: list[dict[str, Any]] = []
        admin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # noqa: N802
                admin.get(self)

            def do_POST(self) -> None:  # noqa: N802
                admin.post(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()

    def get(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        if self.down:
            request.close_connection = True
        elif request.path == "/":
            answer(request, 200, page(), "text/html; charset=utf-8")
        elif request.path in ("/status", "/events") and self.instead:
            answer(request, self.instead[0], self.instead[1].encode())
        elif request.path == "/status":
            answer_json(request, 200, {**status(self.deployments, self.pools), "warnings": self.warnings})
        elif request.path == "/events":
            answer_json(request, 200, {"events": self.events})
        else:
            answer_json(request, 404, {"error": {"message": f"no such path: {request.path}"}})

    def post(self, request: BaseHTTPRequestHandler) -> None:
        """Carries out an order of the page, as the filter would."""
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        self.posts.append({"path": request.path, "body": body.decode(), "header": request.headers.get("x-requested-with")})
        if self.down:
            request.close_connection = True
            return
        if self.refuse_posts:
            answer(request, self.refuse_posts[0], self.refuse_posts[1].encode())
            return
        _, _, name, action = request.path.split("/")
        reason = json.loads(body or b"{}").get("reason", "an operator")
        changed = rolled_back(name, reason=reason) if action == "rollback" else deployment(name)
        self.deployments = [changed if d.get("name") == name else d for d in self.deployments]
        to = changed["phase"]
        self.events = [event(to, seconds_ago=0, name=name, by="operator", text=f"{to}: {reason}"), *self.events]
        answer_json(request, 200, changed)


def answer_json(request: BaseHTTPRequestHandler, code: int, body: Any) -> None:
    answer(request, code, json.dumps(body).encode())


def answer(request: BaseHTTPRequestHandler, code: int, body: bytes, kind: str = "application/json") -> None:
    request.send_response(code)
    for name, value in {
        "content-type": kind, "content-length": str(len(body)), "cache-control": "no-store", "x-frame-options": "DENY",
        "x-content-type-options": "nosniff", "content-security-policy": POLICY,
    }.items():  # fmt: skip
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)
