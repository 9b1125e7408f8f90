"""Generated TypeScript clients: what is written for which part of the document.

``tests/typescript/test_generated.py`` compiles them.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from awkward_registry import Color
from awkward_registry import app as awkward
from harness import EXAMPLES, app_with, load
from pydantic import BaseModel, Field
from repository import ROOT

from websuckets import Channels, ClientError, CommandGroup, Event, Payload, Socket, WebSuckets
from websuckets.channels import Channel
from websuckets.client_generation import Source, read_document, typescript_client
from websuckets.client_generation.types import (
    ANYTHING,
    NULL,
    Constants,
    Constrained,
    MapOf,
    Scalar,
    TupleOf,
    Type,
    UnionOf,
)
from websuckets.client_generation.typescript_layout import LENGTH, comment
from websuckets.client_generation.typescript_types import Types, alias
from websuckets.security import SecurityProvider


def source_of(app: WebSuckets) -> Source:
    return typescript_client(read_document(json.loads(json.dumps(app.asyncapi()))))


def part(app: WebSuckets, name: str) -> str:
    """Return the part of this name."""
    (found,) = [one.text for one in source_of(app).parts if one.name == name]
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Cat", 'export interface Cat {\n  kind: "cat";\n}'),
        ("Color", '/** Colors, some of which are keywords. */\nexport type Color = "class" | '),
        ("Level", "export type Level = -1;"),
        ("Names", "export type Names = { [key: string]: string[] };"),
        ("Point", "export type Point = [number, number];"),
        ("JsonInput", "| JsonInput[] | { [key: string]: JsonInput } | null;"),
        ("AwkwardInput", '  /** @defaultValue `""` */\n  "with blank"?: string;\n'),
        (
            "AwkwardInput",
            '   * A "quoted" description *\\/ with\n   * lines.\n   */\n  class: number;',
        ),
        ("AwkwardInput", "   * @deprecated\n   */\n  self?: Color;"),
        ("AwkwardInput", "  pets?: (Cat | DogInput)[];"),
        ("AwkwardInput", "  [key: string]: unknown;\n}"),
        ("LambdaError", 'export type LambdaError = CommandError<"lambda", '),
        ("ImportEvent", 'export type ImportEvent = ReceivedEvent<"import", Import>;'),
        ("Events", "  import: Import;\n"),
        ("RoomUserChannelEvent", ' | ReceivedEvent<"presence", Presence>;'),
        ("roomUserChannel", "parameters: { class_: string | number; name: string | number }"),
        ("anyChannel", '/** Name of the channel `any`. */\nexport const anyChannel = "any";'),
        ("AnyChannelEvent", "export type AnyChannelEvent = ReceivedEvent;"),
        ("Api.class", "  class = (options?: CallOptions): Promise<null> =>\n    this.client.call"),
        ("Api.none", "payload?: JsonInput | null,"),
        ("Api.anything", "payload?: unknown, "),
        ("Api.aBCПоток", "@deprecated"),  # noqa: RUF001  # a name in Cyrillic
        ("Api.aBCПоток", "this.client.stream<"),  # noqa: RUF001  # a name in Cyrillic
        ("Api.aBCOnce", "options?: OnceOptions"),
        ("Api.aBCOnce", "{ once: true, ...options }),\n"),
        ("Api.aBCWatch", '{ events: ["presence"], ...options }'),
    ],
)
def test_a_part_of_the_awkward_client_is_as_users_expect(name: str, expected: str) -> None:
    assert expected in part(awkward, name)


class Nothing(BaseModel): ...


class Tagged(BaseModel, extra="allow"):
    __pydantic_extra__: dict[str, int] = Field(init=False)

    places: dict[Literal["here", "there"], int]
    colors: dict[Color, int]
    short: Annotated[str, Field(max_length=5)] = "a"
    long: str = Field("-" * 100, description="Long. " * 30)


class Painted(Event):
    nothing: Nothing
    kind: Literal["painted"] = "painted"
    by: str | None = None


class TooMany(ClientError): ...


hall = Channel("hall", events=[Painted])
lobby = Channel("lobby/{a}", events=[Painted])
group = CommandGroup("wall")


@group.command("paint", raises=[TooMany], subscribes=[hall, lobby], protected=False)
async def paint(socket: Socket, tagged: Tagged, channels: Channels) -> tuple[int, ...]:
    """Paint.

    With a description.
    """
    return ()


@group.command("then")
async def then(socket: Socket, first: Payload[tuple[int, str]]) -> None: ...


def app_of_walls() -> WebSuckets:
    app = WebSuckets(channels=[hall, lobby])
    app.include_command_group(group)
    return app


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Nothing", "export type Nothing = Record<string, never>;"),
        ("Tagged", '  places: { [key in "here" | "there"]?: number };'),
        ("Tagged", "  colors: { [key in Color & string]?: number };"),
        ("Tagged", "   * Long. Long."),
        ("Tagged", "...`"),
        ("Painted", '{\n  nothing: Nothing;\n  kind: "painted";\n  by: string | null;\n}'),
        ("LobbyChannelEvent", " = PaintedEvent;"),
        ("Api.wallPaint", '"too many",\n'),
        ("Api.wallPaint", "HallChannelEvent | LobbyChannelEvent"),
        ("Api.wallPaint", "   * Paint.\n   *\n   * With a description."),
        ("Api.wallThen", "payload: [number, string], "),
    ],
)
def test_a_part_of_another_client_is_as_users_expect(name: str, expected: str) -> None:
    assert expected in part(app_of_walls(), name)


def test_names_that_mean_something_else_are_taken_by_no_command() -> None:
    others = CommandGroup()
    for name in ("then", "constructor", "client", "1st", "HTTP status", "a-b", "a b"):

        @others.command(name)
        async def handle(socket: Socket) -> None: ...

    names = [one.name for one in source_of(app_with(others)).parts if one.name.startswith("Api.")]
    assert sorted(names) == [
        *("Api.aB", "Api.aB_", "Api.client_", "Api.command_1st"),
        *("Api.constructor_", "Api.httpStatus", "Api.then_"),
    ]


def test_a_source_is_the_same_for_the_same_app() -> None:
    assert str(source_of(awkward)) == str(source_of(awkward))
    assert all(line.isprintable() for line in str(source_of(awkward)).split("\n"))


def test_all_parts_are_found_again_in_the_source() -> None:
    source = source_of(load("board").app)
    assert source.differing_from(str(source)) == {"new": [], "changed": [], "gone": []}


@pytest.mark.slow
def test_a_client_is_written_and_checked_by_the_command_line(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "websuckets", "client", "typescript"]
    document = tmp_path / "asyncapi.json"
    document.write_text(json.dumps(load("board").app.asyncapi()))
    file = tmp_path / "api.ts"
    app = ["board:app", "--app-dir", str(EXAMPLES)]

    def run(*arguments: str) -> Any:
        command = [*program, *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert run(*app, "-o", str(file)).returncode == 0
    assert "export class Api" in file.read_text()
    assert run("--from", str(document), "-o", str(file), "--check").returncode == 0
    file.write_text(file.read_text().replace("noteAdd = ", "noteAdded = "))
    checked = run(*app, "-o", str(file), "--check")
    assert checked.returncode == 1
    assert "new: Api.noteAdd\ngone: Api.noteAdded\n" in checked.stderr


@pytest.mark.parametrize(
    ("type", "expected"),
    [
        (TupleOf((), Scalar("string")), "string[]"),
        (TupleOf((Scalar("integer"),), Constants((1, "a"))), '[number, ...(1 | "a")[]]'),
        (TupleOf(()), "[]"),
        (
            MapOf(NULL, Constrained(Scalar("string"), (("minLength", 1),))),
            "{ [key: string]: null }",
        ),
        (UnionOf((Scalar("string"), ANYTHING)), "unknown"),
        (Scalar("decimal"), "string"),
    ],
)
def test_a_type_is_written_as_the_json_that_it_is(type: Type, expected: str) -> None:
    assert Types({}, {}).of(type) == expected


def test_long_lines_are_broken() -> None:
    long = ["a long sentence that goes on"] * 8
    assert max(map(len, comment([" ".join(long)]).splitlines())) <= LENGTH
    lines = alias("Long", [f'"{text}"' for text in long]).splitlines()
    assert lines[0] == "export type Long ="
    assert lines[1] == '  | "a long sentence that goes on"'
    assert comment([None, ""]) == ""


class FatalError(ClientError): ...


def test_the_client_of_a_plain_command_is_short() -> None:
    plain = CommandGroup()

    @plain.command("ping", timeout=None)
    async def ping(socket: Socket) -> None: ...

    text = str(source_of(app_with(plain)))
    assert "websuckets/generated" not in text
    assert "/** Send the command `ping`. */" in text


def test_a_name_that_ends_with_its_kind_is_kept_and_a_protected_command_says_so() -> None:
    guarded = CommandGroup()

    @guarded.command("break", protected=True, raises=[FatalError])
    async def break_(socket: Socket) -> None: ...

    app = app_with(guarded, providers=[SecurityProvider()])
    assert part(app, "FatalError").endswith('= CommandError<"fatal error", unknown>;')
    assert "For users who are signed in." in part(app, "Api.break")
