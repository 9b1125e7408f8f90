"""A long answer, word by word, that goes on whoever disconnects, for any number of devices.

Run it with ``python examples/answer.py``, connect with ``python -m websockets ws://localhost:9000``
and type::

    {"event": "ask", "payload": "Why is the sky blue?", "key": "5d02", "id": 1}

The reply has the ``id`` of the answer, and ``since``, the position of its beginning. Watch it, also
from another connection, when the first one is lost, or when the answer is complete::

    {"event": "watch", "payload": "<the id>", "since": <since>, "id": 2}

All words come from the first one on, and those that are still to come; ``answered`` ends them, or
``failed``. A client that was disconnected sends as ``since`` the last offset that it has seen. With
``"recovered": false`` in the reply, the answer is not kept any more: ask again.

A key makes ``ask`` start one answer, however often it is sent: a program makes keys at random. Who
knows the id of an answer may watch it; protect ``watch`` where that is not enough.

One process needs nothing else. With a Redis, the program runs on several ports at once::

    REDIS_URL=redis://localhost:6379 python examples/answer.py 9000
    REDIS_URL=redis://localhost:6379 python examples/answer.py 9001
"""

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated
from uuid import uuid4

import anyio
from dishka import Provider, Scope
from pydantic import BaseModel, Field

from websuckets import (
    AppTasks,
    Channels,
    CommandGroup,
    Event,
    Limits,
    OnCommit,
    Payload,
    Socket,
    WebSuckets,
)
from websuckets.channels import Channel, ChannelName, History
from websuckets.exc import Unavailable
from websuckets.history import EventLog

MOST_WORDS = 5000


class Model:
    """Stands for a language model, which is asked over the network in a real program."""

    async def answer(self, question: str) -> AsyncGenerator[str, None]:
        for word in f"You have asked: {question} That is a good question indeed.".split():
            await anyio.sleep(0.2)
            yield f"{word} "


# Events of an answer: its words, and then one of the others.


class Word(Event):
    number: int  # counted from 1, so that a client notices a word that comes twice
    text: str


class Answered(Event): ...


class Failed(Event): ...


# An answer has fewer events than are kept, so that whoever comes late gets them all.
answer = Channel(
    "answer/{id}",
    events=[Word, Answered, Failed],
    history=History(size=2 * MOST_WORDS, seconds=3600),
)
limits = Limits(recovery=2 * MOST_WORDS)


class Asked(BaseModel):
    id: str
    since: dict[str, tuple[str, int]]


async def generate(question: str, name: ChannelName, model: Model, channels: Channels) -> None:
    """Publish an answer in a task of the app, which no connection can end."""
    number = 0
    last: Event = Failed()
    try:
        async with aclosing(model.answer(question)) as texts:
            async for text in texts:
                number += 1
                await publish(channels, name, Word(number=number, text=text))
                if number == MOST_WORDS:
                    break
        last = Answered()
    finally:
        with anyio.move_on_after(2, shield=True):  # also while the app stops
            await publish(channels, name, last)


async def publish(channels: Channels, name: ChannelName, event: Event) -> None:
    """Publish an event until the log has it; then it may be there twice."""
    while True:
        try:
            return await channels.publish(name, event)
        except Unavailable:
            await anyio.sleep(1)


group = CommandGroup()


@group.command("ask", once=True)
async def ask(
    socket: Socket,
    question: Payload[Annotated[str, Field(min_length=1, max_length=1000)]],
    model: Model,
    log: EventLog,
    channels: Channels,
    tasks: AppTasks,
    on_commit: OnCommit,
) -> Asked:
    id = str(uuid4())  # a secret: it is all that a watcher needs
    name = answer(id=id)
    position = await log.position(name)  # of the beginning: there are no events yet

    def begin() -> None:  # `start_soon` alone returns a handle, and the reply would wait for it
        tasks.start_soon(generate, question, name, model, channels)

    on_commit(begin)
    return Asked(id=id, since={name: position})


@group.command("watch", subscribes=[answer])
async def watch(
    socket: Socket, id: Payload[Annotated[str, Field(max_length=36)]], channels: Channels
) -> None:
    await channels.subscribe(socket, answer(id=id))  # behind the position that is `since`


def make_app(redis_url: str | None = None) -> WebSuckets:
    """One node; all that use the same Redis are one app."""
    models = Provider(scope=Scope.APP)
    models.provide(Model)
    providers = [models]
    if redis_url is not None:
        from websuckets.redis import RedisProvider  # which alone needs the extra `redis`

        providers.append(RedisProvider(redis_url, once=True, history=True))
    app = WebSuckets(providers=providers, channels=[answer], limits=limits)
    app.include_command_group(group)
    return app


app = make_app(os.environ.get("REDIS_URL"))

if __name__ == "__main__":
    app.run("localhost", int(sys.argv[1]) if len(sys.argv) > 1 else 9000)
