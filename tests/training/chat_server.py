"""A real HTTP server on the loopback that speaks the chat-completions shape, and does what a test tells it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """What the server sends: a status, a body, headers; after a pause."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: dict


def completion(text: str | None) -> Reply:
    return Reply(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}))


@dataclass
class ChatServer:
    url: str
    received: list[Received]

    @property
    def questions(self) -> list[str]:
        return [request.body["messages"][0]["content"] for request in self.received]


@contextmanager
def chat_server(reply_to: Callable[[str, int], Reply]) -> Iterator[ChatServer]:
    """Serve; `reply_to(question, how many times it was asked before)` decides."""
    received: list[Received] = []
    lock, ended = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][0]["content"]
            with lock:
                before = sum(request.body["messages"][0]["content"] == question for request in received)
                received.append(Received(self.path, dict(self.headers), body))
            reply = reply_to(question, before)
            ended.wait(reply.after_s)
            content = reply.body.encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client's time is up

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield ChatServer(f"http://127.0.0.1:{server.server_address[1]}/v1", received)
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
