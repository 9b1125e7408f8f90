"""chanx on FastAPI: a handler for each type of message, selected by its ``action``."""

import hmac
import logging
from typing import Any, Literal

import structlog
from chanx.core.decorators import channel, ws_handler
from chanx.fast_channels.websocket import AsyncJsonWebsocketConsumer
from chanx.messages.base import BaseMessage
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer
from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from benchmarks.job import TOKEN, Post, Store, Transaction, preview
from benchmarks.subjects import Options
from benchmarks.subjects.hosts import serve_asgi

store = Store()
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


class SignedPost(Post):
    token: str


class Create(BaseMessage):
    action: Literal["post_create"] = "post_create"
    payload: SignedPost


class Preview(BaseMessage):
    action: Literal["post_preview"] = "post_preview"
    payload: Post


class Created(BaseMessage):
    action: Literal["created"] = "created"
    payload: dict[str, Any]


class Refused(BaseMessage):
    action: Literal["refused"] = "refused"
    payload: None = None


@channel(name="posts")
class Posts(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "default"

    async def post_authentication(self) -> None:
        self.own_token = TOKEN.encode()

    @ws_handler
    async def create(self, message: Create) -> Created | Refused:
        if not hmac.compare_digest(self.own_token, message.payload.token.encode()):
            return Refused()
        transaction = Transaction(store)
        try:
            return Created(payload=transaction.add(message.payload))
        finally:
            transaction.close()

    @ws_handler
    async def show(self, message: Preview) -> Created:
        return Created(payload=preview(message.payload))


register_channel_layer("default", InMemoryChannelLayer())
app = FastAPI(routes=[WebSocketRoute("/", Posts.as_asgi())])


def serve(port: int, variant: str, options: Options) -> None:
    serve_asgi(app, f"{__name__}:app", port, variant)
