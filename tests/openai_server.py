"""A local HTTP server that speaks as much of the OpenAI protocol as the tests of endpoints need."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
"""What every answer says it took."""


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `answers`: a text, or an HTTP status to fail with."""

    def __init__(self) -> None:
        self.answers: list[str | int] = []
        self.finish_reason = "stop"
        self.reason = "refused"
        """Why it fails."""
        self.asked: list[dict] = []
        self.keys: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers["Authorization"])
        if self.path.endswith("/embeddings"):
            vectors = [[float(len(text)), 1.0] for text in body["input"]]
            return self._reply(200, {"data": [{"embedding": vector, "index": i} for i, vector in enumerate(vectors)]})
        answer = self.server.answers.pop(0)
        if isinstance(answer, int):
            return self._reply(answer, {"error": {"message": f"{self.server.reason} {self.headers['Authorization']}"}})
        choice = {"index": 0, "finish_reason": self.server.finish_reason}
        choice["message"] = {"role": "assistant", "content": answer}
        return self._reply(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m",
                                 "choices": [choice], "usage": USAGE})  # fmt: skip

    def _reply(self, status: int, content: dict) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
