"""Handlers whose hints are strings, some of which name what is defined further down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup

if TYPE_CHECKING:
    from decimal import Decimal

group = CommandGroup()
broken = CommandGroup()


@group.command("later")
async def later(socket: ServerConnection, model: Later, thing: Thing) -> str:
    return f"{model.inner.name} {thing.name}"


class Later(BaseModel):
    inner: Inner


class Inner(BaseModel):
    name: str


class Thing:
    name = "thing"


@group.command("returns")
async def returns(socket: ServerConnection) -> Decimal:
    return 1


@broken.command("one")
async def one(socket: ServerConnection, price: Decimal) -> None: ...


@broken.command("two")
async def two(socket: ServerConnection, *, thing: NoSuchThing) -> None: ...  # noqa: F821  # on purpose
