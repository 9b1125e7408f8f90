"""Ours: on every transport, with every limit active."""

from typing import Any

from websockets.asyncio.server import ServerConnection

from benchmarks.job import CREATE, HOST, PREVIEW, TOKEN, Post, Transaction, preview
from benchmarks.subjects import Options
from benchmarks.subjects.hosts import serve_asgi
from benchmarks.subjects.loops import run
from benchmarks.subjects.providers import providers
from websuckets import CommandGroup, Limits, WebSuckets
from websuckets.security import Token
from websuckets.session import User

PLENTY: dict[str, Any] = {"rate": 1e9, "burst": 10**9}
"""As many messages as there can be, but counted all the same."""


async def create(socket: ServerConnection, post: Post, transaction: Transaction) -> dict[str, Any]:
    return transaction.add(post)


async def show(socket: ServerConnection, post: Post) -> dict[str, Any]:
    return preview(post)


async def enter(user: User) -> None:
    user.id = str(user.socket.id)
    user.token = Token(TOKEN)


def build(options: Options) -> WebSuckets:
    group = CommandGroup()
    group.command(CREATE, protected=True)(create)
    group.command(PREVIEW)(show)
    for number in range(options.commands):
        group.command(f"command {number}")(show)
    app = WebSuckets(providers=providers(options.depth), limits=Limits(**PLENTY))
    app.include_command_group(group)
    app.on_connect(enter)
    return app


def serve(port: int, variant: str, options: Options) -> None:
    app = build(options)
    if variant.startswith("asgi"):
        host = "uvloop" if variant == "asgi-uvloop" else "sansio"
        serve_asgi(app.asgi, "", port, host)
    elif variant == "trio":
        app.run(HOST, port, backend="trio")
    else:
        run(variant, lambda: app(HOST, port))
