"""Frames of commands and replies, for servers with different protocols."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from benchmarks.job import TOKEN, Job

__all__ = ["DIALECTS", "Dialect"]


class Dialect(Protocol):
    """A protocol, as far as the load generator must know it to talk to a server."""

    path: str
    opening: Sequence[tuple[str | None, str]]
    """Texts that a client sends after the handshake, if any, and the beginnings of the answers."""

    def command(self, job: Job) -> str: ...

    def call(self, event: str, payload: Any) -> str:
        """Return the command with this name."""
        ...

    def event(self, event: str, payload: Any) -> str:
        """Return the exact text of an event that the server sends without a command."""
        ...

    def payload(self, reply: str) -> Any:
        """Return the payload of the reply. Raises `ValueError` or `KeyError` for anything else."""
        ...


class Events:
    """An event, its payload and a token in one JSON object: the protocol of most subjects."""

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
    """The objects of `Events` with the names of chanx, which has no key for a token."""

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
