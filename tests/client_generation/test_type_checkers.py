"""Generated clients as mypy and pyright see them: without errors, and with those of wrong uses."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import awkward_client
import awkward_registry
import pytest
from generated_clients import app_of_example, names_of_examples, source_of
from repository import ROOT

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

USE: Final = """\
# pyright: standard
import datetime as dt
from collections.abc import Callable
from typing import assert_never, assert_type
from uuid import UUID

from awkward_client import *
from awkward_client import PresenceEvent
from websuckets.client import Client


async def right(client: Client) -> None:
    api = Api(client)
    assert_type(await api.user_create("bob", timeout=1, key="k"), PageStr)
    assert_type(await api.user_list([UUID(int=1)], timeout=None), list[CatOutput | Dog])
    assert_type(await api.user_pets(), CatOutput | Dog | None)
    assert_type(await api.class_(), None)
    async for page in api.user_count(3):
        assert_type(page, PageInt)
    async with api.user_watch(5, on_reload=print) as watched:
        assert_type(watched.reply, PageStr)
        async for event in watched:
            if event.event == "commented":
                assert_type(event, CommentedEvent)
                assert_type(event.payload.text, str)
            match event:
                case CommentedEvent(payload=Commented(text=text)):
                    assert_type(text, str)
                case CommentedEvent() | ClosedForGoodEvent():
                    assert_type(event.offset, int | None)
                case PresenceEvent(payload=presence):
                    assert_type(presence.joined, list[str | int])
                case _:
                    assert_never(event)
    try:
        await api.user_create("ann")
    except USER_CREATE_ERRORS as error:
        match error:
            case NicknameTakenError(details=taken):
                assert_type(taken, Taken)
            case TooYoungError():
                assert_type(error.details, int)
            case _:
                assert_never(error)
    assert_type(ticket_channel(5) + NEWS_CHANNEL, str)
    function: Callable[[], None] = api.on(CommentedEvent, lambda comment: print(comment.text))
    function()
    NamesInput(
        from_=1, first_name="a", first_name_="b", first_name_2="c", field_1=1, field=1, field_=1,
        город_рождения="d", field_model_validate_json="e", json_="f", private=1,
        dt_=dt.datetime.now(), int_=1, list_=[1], str_="g", self=1,
    )
    BoxInput(width=1)
    Row(number=1, note=None)


async def wrong(client: Client) -> None:
    api = Api(client)
    await api.user_create(5)  # wrong: the payload
    await api.user_create()  # wrong: no payload
    await api.user_crate("bob")  # wrong: the name of the command
    await api.user_list(["a"])  # wrong: the items of the payload
    await api.user_comment(5, key="k")  # wrong: the command takes no key
    await api.user_create("bob", timeout="1")  # wrong: the timeout
    await api.user_pets(Dog(kind="cat", name="Rex"))  # wrong: the constant
    await api.user_pets(Tree())  # wrong: the model
    number: int = await api.user_create("bob")  # wrong: the reply
    print((await api.user_create("bob")).things)  # wrong: the field
    async for page in api.user_count(3):
        text: list[str] = page.items  # wrong: the items of the stream
    async with api.user_watch(5) as watched:
        print(watched.reply.things)  # wrong: the field of the reply
        async for event in watched:
            match event:
                case CommentedEvent() | PresenceEvent():
                    print(event.payload.things)  # wrong: the field of the event
                case _:
                    assert_never(event)  # wrong: an event is missing
    try:
        await api.user_create("ann")
    except USER_CREATE_ERRORS as error:
        match error:
            case NicknameTakenError():
                print(error.details.things)  # wrong: the field of the details
            case _:
                assert_never(error)  # wrong: an error is missing
    except USER_CRATE_ERRORS:  # wrong: the name of the errors
        pass
    ticket_channel()  # wrong: no parameter
    room_floor_channel("h", 1, clas="a")  # wrong: the name of the parameter
    api.on(CommentedEvent, lambda comment: print(comment.things))  # wrong: the field of the payload
    Api("ws://localhost")  # wrong: no client
    Row()  # wrong: a field is missing
    Commented(text="a", at="2020")  # wrong: the type of a field
"""

WRONG: Final = {n for n, line in enumerate(USE.splitlines(), 1) if "# wrong" in line}


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the clients of all apps, and a program that uses one."""
    directory = tmp_path_factory.mktemp("clients")
    apps = {
        **{name: app_of_example(name) for name in names_of_examples()},
        "awkward_client": awkward_client.app,
        "awkward_registry": awkward_registry.app,
    }
    for name, app in apps.items():
        (directory / f"{name}.py").write_text(source_of(app), "utf-8")
    (directory / "use.py").write_text(USE, "utf-8")
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}
    (directory / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    return directory


@pytest.fixture(scope="session")
def told_by_mypy(clients: Path) -> list[str]:
    """Return the errors of mypy, each with its file, its line and its text."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    options = ["--no-incremental", "--follow-imports=silent", "."]
    result = subprocess.run(
        [*command, *options],
        cwd=clients,
        env={"MYPYPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert not result.stderr
    return [line for line in result.stdout.splitlines() if ": note: " not in line]


@pytest.fixture(scope="session")
def told_by_pyright(clients: Path) -> list[str]:
    """Return the errors of pyright, each with its file, its line and its text."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "."]
    result = subprocess.run(
        command, cwd=clients, capture_output=True, encoding="utf-8", check=False
    )
    found = json.loads(result.stdout)
    assert found["summary"]["filesAnalyzed"] == len(list(clients.glob("*.py")))
    return [
        f"{Path(one['file']).name}:{one['range']['start']['line'] + 1}: {one['message']}"
        for one in found["generalDiagnostics"]
    ]


@pytest.fixture(params=["mypy", "pyright"])
def told(request: pytest.FixtureRequest) -> list[str]:
    errors: list[str] = request.getfixturevalue(f"told_by_{request.param}")
    return errors


def test_generated_clients_have_no_errors_of_types(told: list[str]) -> None:
    assert [error for error in told if not error.startswith("use.py:")] == []


def test_wrong_uses_of_a_client_are_errors_and_right_ones_are_not(told: list[str]) -> None:
    found: dict[int, str] = {}
    for error in told:
        if match := re.match(r"use\.py:(\d+):", error):
            found.setdefault(int(match[1]), error)
    assert found.keys() == WRONG, [found[line] for line in sorted(found.keys() - WRONG)]
