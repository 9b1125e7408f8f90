"""Control of servers and links by HTTP, for scenarios of clients that run in other programs."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from client_servers import LinkThread, ServerProcess
from timeouts import TIMEOUT

__all__ = ["controlling"]


def steps_of(server: ServerProcess, link: LinkThread) -> dict[str, Callable[[str, Any], Any]]:
    """Return functions for the steps ``server``, ``link`` and ``control``, by their names.

    Each takes the value of the step, and the payload.
    """
    links = {
        "cut": link.cut,
        "black hole": link.lose_all_data,
        "restore": link.restore,
    }
    return {
        "server": lambda value, payload: getattr(server, value)(),
        "link": lambda value, payload: links[value](),
        "control": server.control,
    }


@contextmanager
def controlling(
    server: ServerProcess, link: LinkThread, files: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    """Serve the control, and yield its URL.

    A POST has a step, as ``{"server": "kill"}``, and is answered with the reply to it. A GET is
    answered with the file of its path: a media type, and a text.
    """
    steps = steps_of(server, link)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path in files:
                self._answer(200, *files[self.path])
            else:
                self._answer(404, "text/plain", "")

        def do_POST(self) -> None:
            step = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            (verb, value), *_ = step.items()
            try:
                reply = steps[verb](value, step.get("payload"))
            except Exception as error:
                self._answer(500, "text/plain", f"{type(error).__name__}: {error}")
            else:
                self._answer(200, "application/json", json.dumps(reply))

        def _answer(self, status: int, media_type: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Write no log."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join(TIMEOUT)
        http.server_close()
