"""Mistakes in what commands do: results, errors, sending, middleware, hooks, channels, time."""

from typing import Final

from mistakes import Mistake

BEGIN: Final = """\
import time
from collections.abc import AsyncIterator
from typing import Any
import anyio
from pydantic import BaseModel
from websuckets import AppTasks, ClientEvent, CommandGroup, Limits, Message, Payload
from websuckets import Socket, WebSuckets
from websuckets.channels import Channels
from websuckets.exc import ClientError, HandshakeRefused
from websuckets.limits import Overflow
from websuckets.session import Session, User

group = CommandGroup()

"""
RUN: Final = '@group.command("run")\n'
HERE: Final = '@group.command("run")  # here\n'
TALK: Final = 'app = WebSuckets()\napp.include_command_group(group)\ntalk(app, "run")\n'
ORM: Final = """\
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
class Base(DeclarativeBase): ...
class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)
class RowOut(BaseModel):
    id: int
"""


def mistake(
    name: str, body: str, *says: str, mended: dict[str, str], place: str | None = "line"
) -> Mistake:
    return Mistake(name, BEGIN + body, says, tuple(mended.items()), place)


RESULTS: Final = (
    mistake(
        "a row of a database is returned",
        ORM + HERE + "async def run(socket: Socket):\n    return Row(id=1)\n" + TALK,
        "'run' failed",
        "Row",
        "let the return annotation name the type that is sent",
        mended={"(socket: Socket)": "(socket: Socket) -> RowOut"},
    ),
    mistake(
        "the return annotation is a class that pydantic does not know",
        ORM + HERE + "async def run(socket: Socket) -> Row: return Row(id=1)\n" + TALK,
        "command 'run'",
        "its return annotation `Row`",
        "Annotate what is sent",
        mended={"-> Row": "-> RowOut"},
    ),
    mistake(
        "a result that does not fit its annotation",
        HERE + "async def run(socket: Socket) -> int: return 'many'\n" + TALK,
        "'run' failed",
        "an object of type str does not fit its return annotation",
        "Input should be a valid integer",
        "and the value fit it",
        mended={"'many'": "3"},
    ),
    mistake(
        "nothing is returned where something was promised",
        HERE + "async def run(socket: Socket) -> dict[str, int]: print()\n" + TALK,
        "an object of type NoneType does not fit its return annotation",
        "Input should be a valid dictionary",
        mended={": print()": ": return {}"},
    ),
    mistake(
        "a generator where a value is promised",
        HERE + "async def run(socket: Socket) -> int:\n    yield 1\n" + TALK,
        "command 'run'",
        "its return annotation `int`: it yields; write `-> AsyncIterator[...]`",
        mended={"-> int": "-> AsyncIterator[int]", '"run")\n': '"run")\n'},
    ),
    mistake(
        "a generator that is not async",
        HERE + "def run(socket: Socket) -> Any:\n    yield 1\n" + TALK,
        "command 'run'",
        "it is not an async function; declare it with `async def`",
        mended={"def run": "async def run"},
    ),
    mistake(
        "a coroutine is returned",
        "async def find() -> int: return 1\n"
        + HERE
        + "async def run(socket: Socket):\n    return find()\n"
        + TALK,
        "'run' failed",
        "coroutine",
        "it has to be awaited: `return await ...`",
        mended={"return find()": "return await find()"},
    ),
    mistake(
        "FastAPI's HTTPException in a handler",
        "from fastapi import HTTPException\n" + RUN + "async def run(socket: Socket) -> None:\n"
        "    raise HTTPException(404, 'no such post')  # here\n" + TALK,
        "'run' failed",
        "to answer the client of a command, raise websuckets.exc.ClientError('no such post')",
        mended={"HTTPException(404, 'no such post')": "ClientError('no such post')"},
    ),
    mistake(
        "an error that is not a text",
        RUN
        + "async def run(socket: Socket) -> None:\n    raise ClientError({'a': 1})  # here\n"
        + TALK,
        "ClientError: the error is a str, not dict; what else the client is to know goes into "
        "details",
        mended={"{'a': 1}": "'no', {'a': 1}"},
    ),
    mistake(
        "details that have no JSON form",
        RUN
        + "async def run(socket: Socket) -> None:\n    raise ClientError('no', object())\n"
        + TALK,
        "'run' failed",
        "while encoding the details of ClientError('no')",
        "give details that pydantic serialises",
        mended={"object()": "'why'"},
        place="'run'",
    ),
    mistake(
        "a client's error for a handshake with a status that does not exist",
        RUN + "async def run(socket: Socket) -> None: HandshakeRefused(200)  # here\n" + TALK,
        "HandshakeRefused(200): the status is an int from 300 to 599",
        mended={"200": "403"},
    ),
    mistake(
        "a handler that takes too long",
        RUN
        + "async def run(socket: Socket) -> None: await anyio.sleep(0.3)\n"
        + TALK.replace("()", "(limits=Limits(handler_timeout=0.01))"),
        "'run' from",
        "took longer than 0.01 seconds and was cancelled",
        "(Limits.handler_timeout is 0.01; a command may have its own, by timeout=)",
        mended={"=0.01": "=5"},
        place="'run'",
    ),
    mistake(
        "a stream that takes too long",
        '@group.command("run", timeout=0.01)\n'
        "async def run(socket: Socket) -> AsyncIterator[int]:\n"
        "    await anyio.sleep(0.3)\n    yield 1\n" + TALK,
        "'run' from",
        "took longer than 0.01 seconds for its next item and was cancelled",
        "(the timeout= of its command or group is 0.01)",
        mended={"=0.01": "=5"},
        place="'run'",
    ),
    mistake(
        "a call that blocks the event loop",
        RUN + "async def run(socket: Socket) -> None: time.sleep(1.8)\n" + TALK,
        "the event loop has been blocked for more than",
        "by the command 'run'",
        "`await anyio.to_thread.run_sync(function)`",
        mended={"time.sleep(1.8)": "await anyio.to_thread.run_sync(time.sleep, 1.8)"},
        place="'run'",
    ),
)
"""Mistakes in what handlers return and raise."""

SENDING: Final = (
    mistake(
        "a dict is sent",
        RUN + "async def run(socket: Socket) -> None: await socket.send({'a': 1})  # here\n" + TALK,
        "'run' failed",
        "send() takes str or bytes, not dict; write ClientEvent(event, payload)",
        mended={"{'a': 1}": "ClientEvent('a', 1)"},
    ),
    mistake(
        "a model is sent",
        "class Post(BaseModel): ...\n"
        + RUN
        + "async def run(socket: Socket) -> None: await socket.send(Post())  # here\n"
        + TALK,
        "send() takes str or bytes, not Post; write ClientEvent(event, payload)",
        mended={"Post())": "ClientEvent('post', Post()))"},
    ),
    mistake(
        "an event whose name is a number",
        RUN
        + "async def run(socket: Socket) -> None: await socket.send(ClientEvent(1))  # here\n"
        + TALK,
        "ClientEvent: the event is a str, not int; what is sent with it is the payload",
        mended={"(1)": "('number', 1)"},
    ),
    mistake(
        "an event whose payload has no JSON form",
        RUN + "async def run(socket: Socket) -> None: ClientEvent('a', object())  # here\n" + TALK,
        "Unable to serialize unknown type",
        "ClientEvent('a')",
        "give a payload that pydantic serialises",
        mended={"object()": "1"},
    ),
    mistake(
        "a stream yields the event of somebody else",
        "class Post(BaseModel): ...\n"
        + HERE
        + "async def run(socket: Socket) -> AsyncIterator[Post]:\n"
        "    yield ClientEvent('a')\n" + TALK,
        "'run' failed",
        "a ClientEvent does not fit its return annotation",
        "let the return annotation name the type that is sent",
        mended={"AsyncIterator[Post]": "AsyncIterator[ClientEvent]"},
    ),
    mistake(
        "something else than an event is published",
        RUN + "async def run(socket: Socket, *, channels: Channels) -> None:\n"
        "    await channels.publish('news', {'a': 1})  # here\n" + TALK,
        "an event is a ClientEvent or an Event, not dict; write ClientEvent(event, payload)",
        mended={"{'a': 1}": "ClientEvent('a', 1)"},
    ),
    mistake(
        "a channel that is a number",
        RUN + "async def run(socket: Socket, *, channels: Channels) -> None:\n"
        "    await channels.subscribe(socket, 7)  # here\n" + TALK,
        "the name of a channel is a str, not int",
        'f"room {id}"',
        mended={"socket, 7": "socket, 'room 7'"},
    ),
    mistake(
        "a user who is not a connection is subscribed",
        RUN + "async def run(socket: Socket, *, user: User, channels: Channels) -> None:\n"
        "    await channels.subscribe(user, 'news')  # here\n" + TALK,
        "Channels.subscribe(socket, name): it takes the socket, not User; write user.socket",
        mended={"(user,": "(user.socket,"},
    ),
    mistake(
        "channels of an app that does not run",
        "async def main() -> None:\n"
        "    await app._channels.publish('news', ClientEvent('a'))  # here\n"
        "app = WebSuckets()\nanyio.run(main)\n",
        "Channels: the app does not run",
        "on_startup",
        mended={"app._channels.publish('news', ClientEvent('a'))": "anyio.sleep(0)"},
    ),
)
"""Mistakes in sending and publishing."""

MIDDLEWARE: Final = "app = WebSuckets(middleware=[timed])\n"
CALLS: Final = RUN + "async def run(socket: Socket) -> int: return 1\n"
AROUND: Final = "async def timed(socket: Any, message: Any, call_next: Any) -> Any:  # here\n"

AROUND_COMMANDS: Final = (
    mistake(
        "a middleware that returns nothing",
        CALLS
        + AROUND
        + "    await call_next()\n"
        + TALK.replace("app = WebSuckets()\n", MIDDLEWARE),
        "`program.timed` (",
        "it returned None; return what call_next() gave",
        mended={"    await call_next()": "    return await call_next()"},
    ),
    mistake(
        "a middleware that does not await",
        CALLS
        + AROUND
        + "    return call_next()\n"
        + TALK.replace("app = WebSuckets()\n", MIDDLEWARE),
        "it returned a coroutine; `return await call_next()`",
        mended={"return call_next()": "return await call_next()"},
    ),
    mistake(
        "a middleware with the parameters of Starlette's",
        CALLS
        + "async def timed(request: Any, call_next: Any) -> Any: ...\n"
        + TALK.replace("app = WebSuckets()\n", MIDDLEWARE.replace("\n", "  # here\n")),
        "timed",
        "write `async def middleware(socket, message, call_next)`",
        mended={
            "timed(request: Any, call_next: Any) -> Any: ...": "timed("
            "socket: Any, message: Any, call_next: Any) -> Any: return await call_next()"
        },
    ),
    mistake(
        "a middleware that is not in a list",
        CALLS
        + AROUND.replace("  # here", "")
        + "    return await call_next()\n"
        + TALK.replace("app = WebSuckets()\n", "app = WebSuckets(middleware=timed)  # here\n"),
        "timed",
        "write a list",
        mended={"=timed": "=[timed]"},
    ),
    mistake(
        "a hook that is not async",
        CALLS + TALK.replace("talk", "@app.on_startup  # here\ndef begin() -> None: ...\ntalk"),
        "`program.begin`",
        "it is not an async function; declare it with `async def`",
        mended={"def begin": "async def begin"},
    ),
    mistake(
        "a hook that yields, as a lifespan does",
        CALLS
        + TALK.replace(
            "talk", "@app.on_startup  # here\nasync def begin() -> Any:\n    yield\ntalk"
        ),
        "`program.begin`",
        "it yields; a hook is an `async def` without `yield`",
        "a provider with Scope.APP",
        mended={"    yield\n": "    ...\n"},
    ),
    mistake(
        "a hook at the start that asks for a connection",
        CALLS
        + TALK.replace(
            "talk", "@app.on_startup  # here\nasync def begin(user: User) -> None: ...\ntalk"
        ),
        "`program.begin`",
        "`User`: that belongs to a connection, and at startup there is none",
        mended={"user: User": "session: Session"},
    ),
    mistake(
        "a hook that asks for a message",
        CALLS
        + TALK.replace(
            "talk", "@app.on_connect  # here\nasync def begin(message: Message) -> None: ...\ntalk"
        ),
        "`program.begin`",
        "that belongs to a message, and a hook answers none",
        mended={"message: Message": "socket: Socket"},
    ),
    mistake(
        "a hook that is registered while the app runs",
        CALLS + "app = WebSuckets()\napp.include_command_group(group)\n"
        "@app.on_startup\nasync def begin() -> None:\n"
        "    @app.on_connect  # here\n    async def hello() -> None: ...\ntalk(app)\n",
        "the app runs already: register on_connect hooks before it starts",
        mended={
            "    @app.on_connect  # here\n    async def hello() -> None: ...\n": "    ...\n"
            "@app.on_connect\nasync def hello() -> None: ...\n"
        },
    ),
    mistake(
        "a hook that fails",
        CALLS
        + TALK.replace(
            "talk", "@app.on_startup\nasync def begin() -> None:\n    1 / 0  # here\ntalk"
        ),
        "ZeroDivisionError",
        "while running on_startup begin",
        mended={"1 / 0": "1 / 1"},
    ),
    mistake(
        "a group that is included while the app runs",
        "app = WebSuckets()\n@app.on_startup\nasync def begin() -> None:\n"
        "    app.include_command_group(group)  # here\n" + CALLS + "talk(app)\n",
        "CommandGroup('', commands=1) comes too late; include every group before it starts",
        mended={
            "    app.include_command_group(group)  # here\n": "    ...\n",
            "talk(": "app.include_command_group(group)\ntalk(",
        },
    ),
    mistake(
        "a task that gets a coroutine",
        "async def work() -> None: ...\n"
        + RUN
        + "async def run(socket: Socket, *, tasks: AppTasks) -> None:\n"
        "    tasks.start_soon(work())  # here\n" + TALK,
        "start_soon",
        "pass a function and its arguments, without calling it",
        mended={"work())": "work)"},
    ),
    mistake(
        "limits with a name that there is not",
        CALLS + TALK.replace("WebSuckets()", "WebSuckets(limits=Limits(max_sice=100))  # here"),
        "max_sice",
        "there is no such limit; the nearest is 'max_size'",
        mended={"max_sice": "max_size"},
    ),
    mistake(
        "a limit that is not a number",
        CALLS + TALK.replace("WebSuckets()", 'WebSuckets(limits=Limits(rate="10/s"))  # here'),
        "Limits(rate='10/s'): it is a number, at least 0.001, or None",
        mended={'"10/s"': "10"},
    ),
    mistake(
        "a limit that lets nothing pass",
        CALLS + TALK.replace("WebSuckets()", "WebSuckets(limits=Limits(concurrency=0))  # here"),
        "Limits(concurrency=0): it is a number, at least 1, or None",
        mended={"=0": "=1"},
    ),
    mistake(
        "limits that are a dict",
        CALLS + TALK.replace("WebSuckets()", 'WebSuckets(limits={"rate": 1})  # here'),
        "write Limits(...)",
        mended={'{"rate": 1}': "Limits(rate=1)"},
    ),
    mistake(
        "an overflow that is a word",
        CALLS + TALK.replace("WebSuckets()", 'WebSuckets(limits=Limits(overflow="drop"))  # here'),
        "Limits(overflow='drop'): write one of Overflow",
        mended={'"drop"': "Overflow.DROP_OLDEST"},
    ),
)
"""Mistakes in middleware, hooks, groups and limits."""
