"""Tests of the defaults of parameters: of payloads and of dependencies."""

# ruff: noqa: B006, B008  # defaults as users write them

from dataclasses import dataclass, field
from typing import Annotated, Any

import fastapi
import litestar.params
import pytest
from dishka import FromComponent
from handlers import Item, Thing, refusal_of
from harness import app_with
from pydantic import BaseModel, Field

from websuckets import CommandGroup, Payload, Socket, WebSuckets
from websuckets.exc import InvalidHandlerSignature
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class Tags(BaseModel):
    tags: list[str]


async def test_a_field_as_the_default_of_the_payload_is_honoured() -> None:
    """The field's constraints and default count, in the default and in the annotation."""
    group = CommandGroup()

    @group.command("required")
    async def required(socket: Socket, count: Payload[int] = Field(gt=0)) -> int:
        return count

    @group.command("default")
    async def default(socket: Socket, count: Payload[int] = Field(3, gt=0)) -> int:
        return count

    @group.command("factory")
    async def factory(
        socket: Socket, names: Payload[list[str]] = Field(default_factory=list, max_length=1)
    ) -> list[str]:
        names.append("x")
        return names

    @group.command("annotated")
    async def annotated(
        socket: Socket, count: Payload[Annotated[int, Field(gt=0, default=4)]]
    ) -> int:
        return count

    @group.command("optional")
    async def optional(socket: Socket, count: Payload[int | None] = Field(gt=0)) -> int | None:
        return count

    async with TestClient(app_with(group)) as client:
        for event, absent in {
            "default": 3,
            "factory": ["x"],
            "annotated": 4,
            "optional": None,
        }.items():
            for _ in range(2):
                assert (await client.call(event)).payload == absent
        with pytest.raises(CommandError, match="payload required"):
            await client.call("required")
        for event in ("required", "default", "annotated", "optional"):
            assert (await client.call(event, 5)).payload == 5
            with pytest.raises(CommandError, match="validation error"):
                await client.call(event, -5)
        with pytest.raises(CommandError, match="validation error"):
            await client.call("factory", ["a", "b"])


async def test_no_message_sees_what_another_did_to_a_default() -> None:
    """Copy mutable defaults: of payloads, and of dependencies that nothing provides."""

    @dataclass
    class Filter:
        names: list[str] = field(default_factory=list)

    one = Thing()
    group = CommandGroup()

    @group.command("list")
    async def of_list(
        socket: Socket,
        names: Payload[list[str]] = [],
        *,
        seen: dict[str, list[int]] = {"a": []},
        pair: tuple[int, list[int]] = (1, []),
        thing: Thing = one,
    ) -> object:
        assert thing is one
        names.append("x")
        seen["a"].append(1)
        pair[1].append(1)
        return [names, seen, pair]

    @group.command("model")
    async def of_model(socket: Socket, model: Tags = Tags(tags=[])) -> Tags:
        model.tags.append("x")
        return model

    @group.command("dataclass")
    async def of_dataclass(socket: Socket, model: Payload[Filter] = Filter()) -> object:
        model.names.append("x")
        return model.names

    @group.command("annotated")
    async def of_field(socket: Socket, names: Payload[list[str]] = Field(["y"])) -> list[str]:
        names.append("x")
        return names

    async with TestClient(app_with(group)) as client:
        for _ in range(2):
            assert (await client.call("list")).payload == [["x"], {"a": [1]}, [1, [1]]]
            assert (await client.call("model")).payload == {"tags": ["x"]}
            assert (await client.call("dataclass")).payload == ["x"]
            assert (await client.call("annotated")).payload == ["y", "x"]


class Uncopyable(list[int]):
    def __deepcopy__(self, memo: Any) -> Any:
        raise ValueError("canary")


def test_markers_that_mean_nothing_here_are_refused() -> None:
    """Markers of other frameworks, and pydantic's in the wrong place, are refused with a remedy."""

    def get_thing() -> Thing: ...

    async def depends(socket: Socket, thing: Thing = fastapi.Depends(get_thing)) -> None: ...
    async def annotated(
        socket: Socket, thing: Annotated[Thing, fastapi.Depends(get_thing)]
    ) -> None: ...
    async def body(socket: Socket, model: Item = fastapi.Body()) -> None: ...
    async def keyword(socket: Socket, *, thing: Thing = litestar.params.Parameter()) -> None: ...
    async def dependency(socket: Socket, *, count: int = Field(gt=0)) -> None: ...
    async def from_dishka(
        socket: Socket,
        *,
        thing: Thing = FromComponent(),  # type: ignore[assignment]
    ) -> None: ...
    async def alias(socket: Socket, count: Payload[int] = Field(alias="n")) -> None: ...
    async def uncopyable(socket: Socket, model: Payload[list[int]] = Uncopyable()) -> None: ...
    async def uncopyable_dependency(socket: Socket, *, x: list[int] = Uncopyable()) -> None: ...

    for function, says in {
        depends: "parameter `thing: Thing`: Depends(...) is of another framework",
        annotated: "Depends(...) is of another framework",
        body: "Body(...) is of another framework",
        keyword: "WebSuckets(providers=[...])",
        dependency: "Payload[...]; this parameter is a dependency",
        from_dishka: "annotate the parameter with FromDishka[...]",
        alias: "could have an alias; drop it",
        uncopyable: "its default cannot be copied",
        uncopyable_dependency: "would be shared by all messages",
    }.items():
        text = refusal_of(function)
        assert says in text, text
        assert f"{function.__qualname__}` (" in text

    async def hook(thing: Thing = fastapi.Depends(get_thing)) -> None: ...

    with pytest.raises(InvalidHandlerSignature, match="another framework"):
        WebSuckets().on_startup(hook)
