"""The server of the page that follows a run: answers to one machine, to whoever has its token, and changes nothing.

Invariants: it listens on the loopback interface alone; the page itself holds nothing of the run, and all that does is
given only with the token in the header `Authorization: Bearer …`, which no other site can have a browser send; it knows
no request but GET; whatever fails is an answer, and a browser that leaves is nobody's concern.
"""

from __future__ import annotations

import gzip
import hmac
import json
import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import msgspec

from learner.reporting import browser, charts, pages
from learner.reporting.live import STEPS, Live, WatchError

HERE = "127.0.0.1"
SECONDS = 10.0
"""That a connection may be silent before it has asked for anything."""
POLICY = "connect-src 'self'; img-src blob:; "


class Server(ThreadingHTTPServer):
    """Serves one run until it is shut down."""

    daemon_threads = True

    def __init__(self, live: Live, port: int = 0):
        """port: 0 takes a free one. Raises WatchError where it cannot be had."""
        self.live, self.token = live, secrets.token_hex(16)
        colours = json.dumps({**charts.OUTCOME_COLOURS, **charts.PART_COLOURS})
        parts = pages.parts("browser.js", "watch.js", may_load=POLICY)
        template = pages.environment().get_template("watch.html")
        self.page = template.render(tried=True, colours=colours, steps=STEPS, page_lines=15, **parts).encode()
        try:
            super().__init__((HERE, port), Handler)
        except OSError as error:
            raise WatchError(f"port {port} cannot be had ({error.strerror}): choose another --port") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # its tab was closed meanwhile
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """Of the page, with the token where it never leaves the browser."""
        return f"http://{HERE}:{self.server_port}/#token={self.token}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = SECONDS

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer(200, "text/html; charset=utf-8", self.server.page)
            return
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            self._tell(401, {"error": "the token of `mlagent watch` is missing or wrong"})
            return
        self._tell(*self._answered(path))

    def _answered(self, path: str) -> tuple[int, Any]:
        kind, name = map(unquote, (*path.strip("/").split("/", 1), "")[:2])
        try:
            return 200, self._asked(kind, int(name) if name.isdecimal() else name)
        except WatchError as error:
            return 404, {"error": str(error)}
        except Exception as error:  # the page says it, and asks again
            return 500, {"error": f"mlagent watch failed at {path}: {type(error).__name__}: {error}"}

    def _asked(self, kind: str, name: browser.Part) -> Any:
        live = self.server.live
        match kind, name:
            case "now", "":
                return live.now()
            case "index", _:
                return live.index(name)
            case "block", _:
                return live.block(name)
            case "plot", _:
                return {"svg": live.plot(str(name))}
        raise WatchError(f"there is nothing at {self.path}")

    def _tell(self, code: int, told: Any) -> None:
        self._answer(code, "application/json", msgspec.json.encode(told))

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        packed = gzip.compress(body, 1)
        self.send_response(code)
        for name, value in {
            "Content-Type": kind, "Content-Encoding": "gzip", "Content-Length": str(len(packed)),
            "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "frame-ancestors 'none'",
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(packed)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a page asks every two seconds."""
