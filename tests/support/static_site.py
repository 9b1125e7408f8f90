"""Static files by HTTP, for pages that tests open in a browser."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from timeouts import TIMEOUT

Answer = Callable[[str], tuple[int, str, str]]
"""Function of the body of a POST; returns a status, a media type, and a text."""


@contextmanager
def serving(files: Mapping[str, tuple[str, str]], answer: Answer | None = None) -> Iterator[str]:
    """Serve files, and yield the URL.

    ``files`` has a media type and a text for each path. A POST gets what ``answer`` returns.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            media_type, text = files.get(self.path.partition("?")[0], ("text/plain", None))
            self._send(404 if text is None else 200, media_type, text or "")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            assert answer is not None
            self._send(*answer(body))

        def _send(self, status: int, media_type: str, text: str) -> None:
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
