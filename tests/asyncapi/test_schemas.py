"""Schemas in the document of an app: those of pydantic, in the dialect of AsyncAPI."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from documents import document_of, property_of
from jsonschema import Draft7Validator
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from websuckets import CommandGroup, Payload, Socket


class Post(BaseModel):
    title: str


class Received(BaseModel):
    """A model that is sent otherwise than it is received."""

    number: int = 0
    pair: tuple[int, str] = (0, "")
    many: tuple[int, ...] = ()
    first: tuple[()] = ()
    post: Post = Field(Post(title="a"), description="A reference with a description.")
    either: Annotated["Cat | Dog", Field(discriminator="kind")]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


@dataclass
class Discriminator:
    discriminator: dict[str, int]
    prefixItems: int


def test_schemas_are_those_of_draft_7() -> None:
    group = CommandGroup()

    @group.command("get")
    async def get(socket: Socket, payload: Received) -> Discriminator: ...  # type: ignore[empty-body]  # never called

    document = document_of(group)
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft7Validator.check_schema(schema)
    properties = schemas["Received"]["properties"]
    assert properties["pair"]["items"] == [{"type": "integer"}, {"type": "string"}]
    assert properties["pair"]["additionalItems"] is False
    assert properties["many"]["items"] == {"type": "integer"}
    assert properties["post"]["allOf"] == [{"$ref": "#/components/schemas/Post"}]
    assert properties["post"]["description"] == "A reference with a description."
    assert "discriminator" not in properties["either"]
    assert properties["either"]["x-websuckets-discriminator"]["propertyName"] == "kind"
    assert list(schemas["Discriminator"]["properties"]) == ["discriminator", "prefixItems"]


class Unknown:
    """A class that pydantic does not know."""


class Text(str):
    """A class that pydantic does not know, and that is written like a text."""


REST = {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}


class Odd(BaseModel):
    """A model with fields of which pydantic knows no schema, or no default in JSON."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    unknown: Unknown
    text: Text
    checked: Annotated[int, PlainValidator(int)]
    called: Callable[[], int]
    infinite: float = math.inf
    no_json: object = Unknown()
    rest: Annotated[list[Any], WithJsonSchema(REST)] = []
    unbounded: Annotated[list[Any], WithJsonSchema({"prefixItems": [{"type": "integer"}]})] = []


def test_what_has_no_schema_is_any_json() -> None:
    group = CommandGroup()

    @group.command("get")
    async def get(socket: Socket) -> Odd: ...  # type: ignore[empty-body]  # never called

    @group.command("take")
    async def take(socket: Socket, payload: Payload[list[Odd]]) -> None: ...

    document = document_of(group)
    for name in ("Odd-Input", "Odd-Output"):
        schema = document["components"]["schemas"][name]
        Draft7Validator.check_schema(schema)
        properties = {
            name: {key: value for key, value in found.items() if key != "title"}
            for name, found in schema["properties"].items()
        }
        assert properties["unknown"] == properties["no_json"] == properties["called"] == {}
        assert properties["text"] == {"type": "string"}
        assert properties["infinite"] == {"type": "number"}
        assert properties["rest"]["items"] == [{"type": "integer"}]
        assert properties["rest"]["additionalItems"] == {"type": "string"}
        assert properties["unbounded"]["additionalItems"] is True
    received = document["components"]["schemas"]["Odd-Input"]["properties"]["checked"]
    assert received == {"title": "Checked"}


class Both(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = Field(0, validation_alias="in", serialization_alias="out")
    price: Decimal = Decimal(1)


def test_schemas_of_both_directions_differ_where_those_of_pydantic_do() -> None:
    group = CommandGroup()

    @group.command("get")
    async def get(socket: Socket, payload: Both) -> Both:
        return payload

    @group.command("echo")
    async def echo(socket: Socket, payload: Post) -> Post:
        return payload

    document = document_of(group)
    schemas = document["components"]["schemas"]
    assert list(schemas["Both-Input"]["properties"]) == ["in", "price"]
    assert list(schemas["Both-Output"]["properties"]) == ["out", "price"]
    assert schemas["Both-Input"]["additionalProperties"] is False
    price = schemas["Both-Output"]["properties"]["price"]
    assert price["type"] == "string" and "pattern" not in price  # "1E+5" is a price, too
    assert property_of(document, "get", "payload")["$ref"].endswith("/Both-Input")
    assert property_of(document, "get.reply", "payload")["$ref"].endswith("/Both-Output")
    assert "Post" in schemas and "Post-Input" not in schemas
