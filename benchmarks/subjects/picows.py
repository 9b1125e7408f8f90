"""The lower bound: callbacks of picows, which is written in Cython, and no coroutine at all."""

import hmac
from collections.abc import Callable
from typing import Any

import picows
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from benchmarks.job import CREATE, HOST, PREVIEW, TOKEN, Post, Store, Transaction, preview
from benchmarks.subjects import Options
from benchmarks.subjects.loops import run, until_told_to_end

store = Store()


def create(token: bytes, message: dict[str, Any]) -> Any:
    if not hmac.compare_digest(token, message["token"].encode()):
        raise PermissionError
    post = Post.model_validate(message["payload"])
    transaction = Transaction(store)
    try:
        return transaction.add(post)
    finally:
        transaction.close()


def show(token: bytes, message: dict[str, Any]) -> Any:
    return preview(Post.model_validate(message["payload"]))


commands: dict[str, Callable[[bytes, dict[str, Any]], Any]] = {CREATE: create, PREVIEW: show}


def answer(token: bytes, frame: bytes) -> bytes:
    try:
        message = from_json(frame)
        event = message["event"]
        command = commands[event]
    except (ValueError, KeyError, TypeError):
        return b'{"error": "invalid message"}'
    try:
        payload = command(token, message)
    except PermissionError:
        return b'{"error": "not authorized"}'
    except (ValidationError, KeyError):
        return b'{"error": "validation error"}'
    return to_json({"event": event, "payload": payload})


class Client(picows.WSListener):
    def __init__(self) -> None:
        self.token = TOKEN.encode()

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type == picows.WSMsgType.TEXT:
            reply = answer(self.token, frame.get_payload_as_bytes())
            transport.send(picows.WSMsgType.TEXT, reply)


def serve(port: int, variant: str, options: Options) -> None:
    async def main() -> None:
        server = await picows.ws_create_server(
            lambda request: Client(), HOST, port, max_frame_size=64 * 1024, backlog=1024
        )
        async with server:
            await until_told_to_end()

    run(variant, main)
