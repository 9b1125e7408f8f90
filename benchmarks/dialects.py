"""How a command and its reply look on the wire, for servers with different ideas about it."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from benchmarks.job import TOKEN, Job

__all__ = ["DIALECTS", "Dialect"]


class Dialect(Protocol):
    """What the load generator must know to talk to a server."""

    path: str
    opening: Sequence[tuple[str | None, str]]
    """What a client says after the handshake, if anything, and how the server's answers begin."""

    def command(self, job: Job) -> str: ...

    def call(self, event: str, payload: Any) -> str:
        """A command of any name."""
        ...

    def event(self, event: str, payload: Any) -> str:
        """What the server sends unasked, to the letter."""
        ...

    def payload(self, reply: str) -> Any:
        """What the reply carries. Raises `ValueError` or `KeyError` for what is no such reply."""
        ...


class Events:
    """An event, its payload and a token in one JSON object: what most subjects speak."""

    path = "/"
    opening: Sequence[tuple[str | None, str]] = ()

    def command(self, job: Job) -> str:
        return self.call(job.event, job.post)

    def call(self, event: str, payload: Any) -> str:
        return json.dumps({"event": event, "payload": payload, "token": TOKEN})

    def event(self, event: str, payload: Any) -> str:
        return json.dumps({"event": event, "payload": payload}, separators=(",", ":"))

    def payload(self, reply: str) -> Any:
        return json.loads(reply)["payload"]


class Actions(Events):
    """The same under other names, as chanx has it; it knows no key for a token."""

    def call(self, event: str, payload: Any) -> str:
        action = event.replace(" ", "_")
        return json.dumps({"action": action, "payload": {**payload, "token": TOKEN}})


class SocketIO:
    """Engine.IO and Socket.IO, version 4, over WebSocket: each command asks for an acknowledgement.

    ``0`` opens the engine, ``40`` connects to the namespace, ``42`` is an event, ``43`` its
    acknowledgement; the digit after either is the client's number for it.
    """

    path = "/socket.io/?EIO=4&transport=websocket"
    opening: Sequence[tuple[str | None, str]] = ((None, "0{"), ("40", "40{"))

    def command(self, job: Job) -> str:
        return self.call(job.event, job.post)

    def call(self, event: str, payload: Any) -> str:
        return "420" + json.dumps([event, {"payload": payload, "token": TOKEN}])

    def event(self, event: str, payload: Any) -> str:
        return "42" + json.dumps([event, payload], separators=(",", ":"))

    def payload(self, reply: str) -> Any:
        return json.loads(reply.removeprefix("430"))[0]["payload"]


DIALECTS: dict[str, Dialect] = {"events": Events(), "actions": Actions(), "socketio": SocketIO()}
