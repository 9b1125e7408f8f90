"""Control of servers and links by HTTP, for scenarios of clients that run in other programs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from client_servers import LinkThread, ServerProcess
from static_site import serving

__all__ = ["controlling"]


@contextmanager
def controlling(
    server: ServerProcess, link: LinkThread, files: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    """Serve the control, and yield its URL.

    A POST has a step, as ``{"server": "kill"}``, and is answered with the reply to it. A GET is
    answered with the file of its path: a media type, and a text.
    """
    links = {
        "cut": link.cut,
        "black hole": link.lose_all_data,
        "restore": link.restore,
    }
    steps = {
        "server": lambda value, payload: getattr(server, value)(),
        "link": lambda value, payload: links[value](),
        "control": server.control,
    }

    def answer(body: str) -> tuple[int, str, str]:
        step = json.loads(body)
        (verb, value), *_ = step.items()
        try:
            reply = steps[verb](value, step.get("payload"))
        except Exception as error:
            return 500, "text/plain", f"{type(error).__name__}: {error}"
        return 200, "application/json", json.dumps(reply)

    with serving(files, answer) as url:
        yield url
