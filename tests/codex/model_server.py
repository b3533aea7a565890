"""A model with prepared answers: the part of OpenAI's Responses API that codex needs, on a local port."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 18,
}


class ModelServer(ThreadingHTTPServer):
    """Answers each request with the next of its answers; without one, with an error that ends codex's turn."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[str] = []
        #: What codex sent, in order.
        self.requests: list[dict[str, Any]] = []

    def inputs(self) -> list[Any]:
        """Return the input of the last request, without nulls."""
        return [_without_nulls(item) for item in self.requests[-1]["input"]]

    def texts(self) -> list[str]:
        """Return the texts of the messages in the last request."""
        messages = [item for item in self.inputs() if item.get("role") in ("user", "assistant")]
        return [part["text"] for message in messages for part in message["content"]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer

    def do_POST(self) -> None:
        self.server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.path != "/v1/responses" or not self.server.answers:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in _events(f"resp-{len(self.server.requests)}", self.server.answers.pop(0)):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Keep the tests' output clean."""


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _events(response_id: str, answer: str) -> Iterator[dict[str, Any]]:
    """Yield the fewest events that codex accepts as a whole answer."""
    content = [{"type": "output_text", "text": answer}]
    message = {"type": "message", "id": f"msg-{response_id}", "role": "assistant", "content": content}
    yield {"type": "response.created", "response": {"id": response_id}}
    yield {"type": "response.output_item.done", "output_index": 0, "item": message}
    yield {"type": "response.completed", "response": {"id": response_id, "usage": USAGE}}


@contextmanager
def model_server() -> Iterator[ModelServer]:
    """Run a model server during a block."""
    with ModelServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
