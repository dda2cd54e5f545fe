"""A small server that speaks the OpenAI protocol and misbehaves on request."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Double:
    """What the server was asked, and what it is to do: `behave(path, body, number) -> reply | (status, headers, text)`.

    A reply of None drops the connection.
    """

    def __init__(self, behave: Callable):
        self.behave = behave
        self.asked: list[tuple[str, dict]] = []
        self.headers: list[dict] = []
        self.lock = threading.Lock()
        self.url = ""


@contextlib.contextmanager
def serving(behave: Callable, models: tuple[str, ...] = ("little",)) -> Iterator[Double]:
    """Serve on a free port of this machine while the block runs."""
    double = Double(behave)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(200, {}, json.dumps({"data": [{"id": name} for name in models]}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with double.lock:
                number = len(double.asked)
                double.asked.append((self.path, body))
                double.headers.append(dict(self.headers))
            found = double.behave(self.path, body, number)
            if found is None:
                self.close_connection = True
                return
            status, headers, text = found if isinstance(found, tuple) else (200, {}, json.dumps(found))
            self.reply(status, headers, text)

        def reply(self, status, headers, text):
            data = text.encode("utf-8", "surrogatepass")
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    double.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chat(text: str, finish: str = "stop", **more) -> dict:
    """Return a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    return {"choices": [choice], "usage": {"completion_tokens": len(text)}}
