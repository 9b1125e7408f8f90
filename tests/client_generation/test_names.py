"""Names and texts of an app in a generated client: any of them make a module that Python reads."""

import ast
from enum import Enum
from keyword import iskeyword, kwlist
from typing import Any

import pytest
from generated_clients import module_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from websuckets import CommandGroup, Event, Socket, WebSuckets
from websuckets.channels import Channel
from websuckets.client_generation import python_client, read_document
from websuckets.client_generation.names import Names, camel, snake
from websuckets.client_generation.python_layout import docstring, literal

ANY_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
AWKWARD_TEXT = ANY_TEXT | st.sampled_from(
    [
        *("class", "None", "IF", "self", "list", "model_dump", "json", "Client", "Any", "dt", "1"),
        *("é", "ﬁ", '"""', "\\", '\\"', "\\N{DIGIT ONE}", "a\nb", "\r", "\x00", "\u202e", "\u2028"),
    ]
)


@pytest.mark.parametrize(
    ("name", "snake_name", "camel_name"),
    [
        ("user create", "user_create", "UserCreate"),
        ("firstName", "first_name", "FirstName"),
        ("HTTPServer", "http_server", "HTTPServer"),
        ("userID", "user_id", "UserID"),
        ("dark-blue", "dark_blue", "DarkBlue"),
        ("__private__", "private", "Private"),
        ("1st", "1st", "1st"),
        ("x1Y2", "x1_y2", "X1Y2"),
        ("получить заметку", "получить_заметку", "ПолучитьЗаметку"),
        ("ﬁle", "file", "File"),
        ("+", "", ""),
    ],
)
def test_names_are_in_the_habit_of_the_language(
    name: str, snake_name: str, camel_name: str
) -> None:
    assert (snake(name), camel(name)) == (snake_name, camel_name)


def test_a_name_that_is_written_well_keeps_it_and_others_get_an_end() -> None:
    names = Names(["class"]).take_all(["A-b", "a_b", "a b", "class", "1", ""], snake, "name")
    assert list(names.values()) == ["a_b_", "a_b", "a_b_2", "class_", "name_1", "name"]


@given(st.lists(AWKWARD_TEXT, unique=True, max_size=8))
def test_names_are_identifiers_that_differ(texts: list[str]) -> None:
    made = Names(kwlist).take_all(texts, snake, "name")
    assert list(made) == texts
    assert len(set(made.values())) == len(texts)
    for name in made.values():
        assert ast.parse(name, mode="eval").body.id == name  # type: ignore[attr-defined]  # a name


@given(st.lists(AWKWARD_TEXT, max_size=3))
@example(['Say "hi"'])
@example(["A path ends in \\"])
def test_docstrings_are_literals_with_the_lines_of_their_text(texts: list[str]) -> None:
    source = docstring(texts)
    value = ast.literal_eval(source)
    if all(text.isprintable() for text in texts):
        told = [text.strip() for text in texts if text.strip()]
        assert [line for line in value.split("\n") if line] == told
    assert all(character.isprintable() for line in source.split("\n") for character in line)


@given(st.recursive(st.none() | st.booleans() | st.integers() | ANY_TEXT, st.lists, max_leaves=5))
def test_literals_are_those_of_their_values(value: Any) -> None:
    assert ast.literal_eval(literal(value)) == value


@settings(max_examples=40)
@given(
    names=st.lists(AWKWARD_TEXT, min_size=1, max_size=4, unique=True),
    text=AWKWARD_TEXT,
    title=st.sampled_from(["TypeAdapter", "Field", "Any", "Thing", "date", "list", "Größe", "_"]),
)
def test_an_app_with_any_names_has_a_client_that_python_reads(
    names: list[str], text: str, title: str
) -> None:
    fields: Any = {
        f"f{n}": (int, Field(alias=name, description=text)) for n, name in enumerate(names)
    }
    model: Any = create_model(title if title != "_" else "M", __doc__=text, **fields)
    enum: Any = Enum("Choice", {f"m{n}": name for n, name in enumerate(names)})  # type: ignore[misc]  # its members vary

    class Told(Event, name=names[0]):
        __doc__ = text

        choice: enum = enum(names[-1])

    group = CommandGroup(tags=["a"])
    for name in names:

        async def handler(socket: Socket, payload: model) -> model | enum:
            return payload

        handler.__doc__ = text
        group.command(name)(handler)
    app = WebSuckets(title=text, version=text, channels=[Channel("a/{self}/{x}", events=[Told])])
    app.include_command_group(group)
    source = str(python_client(read_document(app.asyncapi())))
    module = module_of(source)
    (made,) = (
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, BaseModel)
        and thing.__module__ == module.__name__
        and not {"choice", "payload"} & thing.model_fields.keys()
    )
    values = dict(zip(names, range(len(names)), strict=True))
    assert made.model_validate(values).model_dump(by_alias=True) == values
    methods = [name for name in vars(module.Api) if not name.startswith("_")]
    assert len(methods) == len(names) and not any(map(iskeyword, methods))
    assert all(line.isprintable() for line in source.split("\n"))
