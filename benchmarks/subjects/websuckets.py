"""websuckets: on every transport, with every limit active."""

from typing import Any, Final

from dishka import Provider
from websockets.asyncio.server import ServerConnection

from benchmarks.job import CREATE, HOST, PREVIEW, TOKEN, Post, Store, Transaction, preview
from benchmarks.news import NEWS, PUBLISH, SUBSCRIBE, Edition, publish_all
from benchmarks.subjects import Options
from benchmarks.subjects.hosts import serve_asgi
from benchmarks.subjects.loops import run
from benchmarks.subjects.providers import providers
from websuckets import ClientEvent, CommandGroup, Limits, Payload, WebSuckets
from websuckets.channels import Channels
from websuckets.security import Token
from websuckets.session import User

store = Store()

PLENTY: dict[str, Any] = {"rate": 1e9, "burst": 10**9}
"""A rate that no client reaches, but that is counted all the same."""


WITHOUT: Final[dict[str, dict[str, Any]]] = {
    "deadlines": {"handler_timeout": None, "finalize_timeout": None},
    "rate": {"rate": None, "burst": None},
    "streaks": {"auth_failures": None, "unknown_streak": None},
    "slow readers": {"send_timeout": None, "outbox": None},
    "max_size": {"max_size": None},
    "keepalive": {},
    "guard": {},
    "dependency": {},
}
"""Limits that are switched off, by name.

``keepalive`` is an option of the server; ``guard`` is ``protected``; ``dependency`` is the
`Transaction`, for comparison.
"""

ALL_LIMITS: Final = "all limits"


def limits_without(name: str) -> dict[str, Any]:
    """Return the fields of `Limits` that switch off a guarantee."""
    if name == ALL_LIMITS:
        return {field: None for fields in WITHOUT.values() for field in fields}
    return WITHOUT.get(name, {})


async def create(socket: ServerConnection, post: Post, transaction: Transaction) -> dict[str, Any]:
    return transaction.add(post)


async def create_by_hand(socket: ServerConnection, post: Post) -> dict[str, Any]:
    """Run the protected command without the dependency."""
    transaction = Transaction(store)
    try:
        return transaction.add(post)
    finally:
        transaction.close()


async def show(socket: ServerConnection, post: Post) -> dict[str, Any]:
    return preview(post)


async def subscribe(socket: ServerConnection, name: Payload[str], channels: Channels) -> str:
    await channels.subscribe(socket, name)
    return name


async def publish(socket: ServerConnection, edition: Edition, channels: Channels) -> int:
    async def send(payload: dict[str, Any]) -> None:
        await channels.publish(NEWS, ClientEvent(NEWS, payload))

    return await publish_all(edition, send)


async def enter(user: User) -> None:
    user.id = str(user.socket.id)
    user.token = Token(TOKEN)


def nodes(options: Options) -> list[Provider]:
    """Return the provider that connects this node to others, if any."""
    if not options.redis:
        return []
    from websuckets.redis import RedisProvider  # its packages may be missing

    return [RedisProvider(options.redis)]


def build(options: Options) -> WebSuckets:
    group = CommandGroup()
    handler = create_by_hand if options.without == "dependency" else create
    group.command(CREATE, protected=options.without != "guard")(handler)
    group.command(PREVIEW)(show)
    group.command(SUBSCRIBE)(subscribe)
    group.command(PUBLISH)(publish)
    for number in range(options.commands):
        group.command(f"command {number}")(show)
    limits = Limits(**{**PLENTY, **limits_without(options.without)})
    app = WebSuckets(providers=[*providers(options.depth), *nodes(options)], limits=limits)
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
        without = {"ping_interval": None} if options.without == "keepalive" else {}
        run(variant, lambda: app(HOST, port, **without))
