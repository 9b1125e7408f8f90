"""Generated clients at work: against a server, on asyncio and on trio."""

import datetime as dt
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import anyio
import awkward_client
import pytest
from client_of import client_at, until
from generated_clients import module_of, source_of
from timeouts import TIMEOUT

from websuckets import ClientError, CommandGroup, Socket, WebSuckets
from websuckets.client import CommandError, UnexpectedReply
from websuckets.client.generated import TypedError

pytestmark = pytest.mark.anyio

T = TypeVar("T")

API: Final = module_of(source_of(awkward_client.app))

NOW: Final = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@asynccontextmanager
async def api_of(app: WebSuckets, module: Any = API, **options: Any) -> AsyncIterator[Any]:
    """Serve an app, and yield the commands of its generated client."""
    async with app.serve("127.0.0.1", 0) as server:
        async with client_at(server.urls[0], **options) as client:
            with anyio.fail_after(TIMEOUT):
                yield module.Api(client)


def awkward(**options: Any) -> Any:
    return api_of(awkward_client.make_app(), **options)


def everything(**fields: Any) -> Any:
    """Return a payload of the command ``user everything``."""
    values = {
        "pet": API.Dog(kind="dog", name="Rex"),
        "married": API.HusbandInput(wife=API.WifeInput(husband=API.HusbandInput())),
        "moment": NOW,
        "amount": "1.50",
        "pair": (1, "a"),
        "numbers": [1, 2],
        "row": API.Row(number=1),
        "box": API.BoxInput(width=1),
        "json_value": {"a": [1, None, {"b": "c"}]},
        "page": API.PageCatInput(items=[API.CatInput(class_="felis")]),
        "pages": {"a": API.PageDogInput(items=[], next=2)},
        "by_color": {API.Color.RED: 1},
        "by_number": {"5": "five"},
        "short": "ok",
        "several": ["abc"],
        "password": "secret",
    }
    return API.EverythingInput(**{**values, **fields})


async def test_a_command_returns_the_model_of_its_reply() -> None:
    async with awkward() as api:
        page = await api.user_create("bob")
        assert page == API.PageStr(items=["bob"], next=None)


async def test_values_of_all_kinds_go_there_and_come_back() -> None:
    sent = everything(
        color=API.Color.DARK_BLUE,
        level=API.Level.VALUE_2,
        mixed=API.Mixed.VALUE_1_5,
        id=UUID(int=7),
        data=b"bytes",
        duration=dt.timedelta(hours=1),
        unique={1, 2},
        colors={API.Color.RED},
        tree=API.TreeInput(value={"any": 1}, children=[API.TreeInput(value=None)]),
        pets=[API.CatInput(class_="felis"), API.Dog(kind="dog", name="Rex")],
        boxes=[API.BoxInput(width=1, tags=["a"], inner=API.BoxInput(width=2))],
        old="old",
    )
    async with awkward() as api:
        got = await api.user_everything(sent)
    same = ("moment", "day", "time", "duration", "id", "fixed_id", "data", "pair", "numbers")
    same += ("unique", "colors", "color", "level", "mixed", "by_color")
    for name in same:
        assert getattr(got, name) == getattr(sent, name), name
    cat = API.CatOutput(kind="cat", class_="felis")
    assert got.page == API.PageCatOutput(items=[cat], next=None)
    assert got.pages == {"a": API.PageDogOutput(items=[], next=2)}
    assert got.pets == [cat, API.Dog(kind="dog", name="Rex")]
    assert isinstance(got, API.EverythingOutput)
    assert got.married.wife.husband.wife is None
    assert got.tree.children[0].value is None and got.tree.value == {"any": 1}
    assert got.boxes[0].inner.width == 2
    assert Decimal(got.amount) == Decimal("1.5")
    assert got.json_value == {"a": [1, None, {"b": "c"}]}


async def test_fields_that_are_left_out_get_the_defaults_of_the_server() -> None:
    async with awkward() as api:
        got = await api.user_everything(everything(row=API.Row(number=1, note=None, maybe=None)))
    assert isinstance(got.id, UUID)
    assert str(got.address) == "127.0.0.1"
    assert [box.width for box in got.boxes] == [1]
    assert got.box.tags == []
    assert got.row.model_fields_set == {"number", "maybe"}  # a null that was set is sent


async def test_an_error_may_have_other_bases_with_arguments_too() -> None:
    class Tagged(Generic[T]): ...

    class Wrong(TypedError[int], Tagged[str]): ...

    assert Wrong("wrong", 5).details == 5
    with pytest.raises(UnexpectedReply):
        _ = Wrong("wrong", "many").details


async def test_passwords_are_in_no_repr() -> None:
    assert "secret" not in repr(everything())


async def test_fields_with_awkward_names_go_there_and_come_back() -> None:
    values: dict[str, Any] = dict.fromkeys(API.NamesInput.model_fields, 1)
    values |= dict.fromkeys(("first_name", "first_name_", "first_name_2", "json_", "str_"), "a")
    values |= dict.fromkeys(("город_рождения", "field_model_validate_json"), "d")
    values |= {"dt_": NOW, "list_": [1], "date": dt.date(2020, 1, 1), "first_name_": "b"}
    sent = API.NamesInput(**values, further=[1])
    async with awkward() as api:
        with pytest.warns(DeprecationWarning, match="'user names' is deprecated"):
            got = await api.user_names(sent)
    assert got == API.NamesOutput(**{"import_": 1, **values}, further=[1])
    assert (got.first_name_, got.first_name, got.model_extra) == ("b", "a", {"further": [1]})


async def test_other_replies_have_their_types() -> None:
    async with awkward() as api:
        assert await api.user_list([UUID(int=1)]) == [
            API.Dog(kind="dog", name="00000000-0000-0000-0000-000000000001")
        ]
        assert await api.user_pets() is None
        assert await api.user_pets(API.CatInput(class_="felis")) == API.CatOutput(
            kind="cat", class_="felis"
        )
        assert await api.user_ids([UUID(int=1)]) == [UUID(int=1)]
        assert await api.client_(API.TypeAdapter_(client="a", model_copy_=1)) == API.Größe(größe=1)
        assert await api.class_() is None
        assert await api.command((1, 2)) == 3
        assert await api.command_((3, 1)) == {"a": API.Row(number=2)}
        assert await api.получить_заметку({"a": [1]}) == {"a": [1]}
        assert await api.user_create_() == API.Moved(x=1)
        with pytest.warns(DeprecationWarning):
            assert await api.deprecated_() == {"a": [1]}


async def test_errors_come_as_their_classes_with_typed_details() -> None:
    async with awkward() as api:
        with pytest.raises(API.NicknameTakenError) as caught:
            await api.user_create("ann")
        assert caught.value.details == API.Taken(by="ann", until=NOW)
        assert caught.value.error == "nickname taken"
        with pytest.raises(API.USER_CREATE_ERRORS) as other:
            await api.user_create("baby")
        assert (type(other.value), other.value.details) == (API.TooYoungError, 3)
        with pytest.raises(API.ValidationError) as none:
            await api.user_everything(everything(short="bad"))
        assert none.value.details is None


async def test_other_errors_are_those_of_the_client() -> None:
    async with awkward() as api:
        with pytest.raises(CommandError) as caught:
            await api.user_everything({"short": "ok"})
        assert type(caught.value) is CommandError
        assert caught.value.error == "validation error"


async def test_the_errors_of_the_program_come_first() -> None:
    class Mine(CommandError): ...

    async with awkward(errors={"nickname taken": Mine}) as api:
        with pytest.raises(Mine):
            await api.user_create("ann")


async def test_details_that_do_not_fit_are_told_when_they_are_asked_for() -> None:
    group = CommandGroup("user")

    @group.command("create")
    async def create(socket: Socket) -> None:
        raise ClientError("too young", {"secret": "text"})

    app = WebSuckets()
    app.include_command_group(group)
    async with api_of(app) as api:
        with pytest.raises(API.TooYoungError) as caught:
            await api.user_create("ann")
    with pytest.raises(UnexpectedReply) as unexpected:
        _ = caught.value.details
    assert "secret" not in str(unexpected.value)
    assert str(caught.value).startswith("too young")


async def test_a_key_makes_a_command_take_effect_once() -> None:
    runs = []
    group = CommandGroup("user")

    @group.command("create", once=True)
    async def create(socket: Socket) -> int:
        runs.append(1)
        return len(runs)

    app = WebSuckets()
    app.include_command_group(group)
    async with api_of(app, module_of(source_of(app))) as api:
        replies = [await api.user_create(key="a") for _ in range(2)]
        assert replies == [1, 1]
        assert await api.user_create() == 2


async def test_a_timeout_is_that_of_the_call() -> None:
    group = CommandGroup("user")
    told = anyio.Event()

    @group.command("create")
    async def create(socket: Socket) -> None:
        await told.wait()

    app = WebSuckets()
    app.include_command_group(group)
    async with api_of(app, module_of(source_of(app))) as api:
        with pytest.raises(TimeoutError, match=r"within 0\.01 seconds"):
            await api.user_create(timeout=0.01)
        told.set()


async def test_streams_yield_models() -> None:
    async with awkward() as api:
        assert [page.items async for page in api.user_count(3)] == [[0], [1], [2]]
        assert [item async for item in api.user_walk()] == [1, API.Moved(x=2)]


async def test_streams_end_with_typed_errors() -> None:
    items = []
    async with awkward() as api:
        with pytest.raises(API.TooYoungError) as caught:
            async for page in api.user_count(4):
                items.append(page)
    assert len(items) == 4 and caught.value.details == 4


async def test_subscriptions_yield_typed_events_with_their_channel_and_offset() -> None:
    async with awkward() as api:
        async with api.user_watch(5) as watched:
            assert watched.reply == API.PageStr(items=[], next=None)
            await api.user_comment(5)
            event = await anext(watched)
            assert watched.positions[API.ticket_channel(5)][1] == 1
    assert event == API.CommentedEvent(
        payload=API.Commented(text="hello", at=NOW), channel="ticket/5", offset=1
    )


async def test_subscriptions_raise_typed_errors() -> None:
    async with awkward() as api:
        with pytest.raises(API.TooYoungError) as caught:
            async with api.user_watch(-1):
                pass
    assert caught.value.details == -1


async def test_subscriptions_to_several_channels_yield_declared_and_other_events() -> None:
    async with awkward() as api:
        async with api.user_watch_many() as watched:
            assert watched.reply is None
            await api.user_comment(5)
            events = [await anext(watched) for _ in range(2)]
    by_name = {event.event: event for event in events}
    assert by_name["commented 2"] == API.Commented2Event(payload=API.Moved(x=5))
    assert by_name["whatever"].payload == [5]


async def test_subscriptions_go_on_from_the_positions_that_they_are_given() -> None:
    async with awkward() as api:
        async with api.user_watch(5) as watched:
            await api.user_comment(5)
            await anext(watched)
        await api.user_close(5)
        async with api.user_watch(5, since=watched.positions) as watched:
            event = await anext(watched)
    assert event == API.ClosedForGoodEvent(payload=API.Closed(), channel="ticket/5", offset=2)


async def test_a_gap_calls_on_reload_with_the_model_of_the_reply() -> None:
    replies: list[Any] = []
    since = {"ticket/5": ("another epoch", 7)}
    async with awkward() as api:
        async with api.user_watch(5, since=since, on_reload=replies.append) as watched:
            await api.user_comment(5)
            assert (await anext(watched)).offset == 1
    assert replies == [API.PageStr(items=[], next=None)]


async def test_subscribers_are_told_who_comes_by_a_typed_event() -> None:
    async with awkward_client.make_app().serve("127.0.0.1", 0) as server:
        url = server.urls[0]
        async with client_at(url) as one, client_at(url) as another:
            ann, bob = API.Api(one), API.Api(another)
            await ann.log_in("ann")
            async with ann.user_watch(5) as watched:
                await bob.log_in("bob")
                async with bob.user_watch(5):
                    with anyio.fail_after(TIMEOUT):
                        while (event := await anext(watched)).payload.joined != ["bob"]:
                            pass
    assert isinstance(event, API.PresenceEvent) and event.payload.channel == "ticket/5"


async def test_an_event_of_another_version_is_told_and_the_next_one_comes() -> None:
    old = source_of(awkward_client.app).replace("    text: str\n", '    text: Literal["bye"]\n')
    async with api_of(awkward_client.make_app(), module_of(old)) as api:
        async with api.user_watch(5) as watched:
            await api.user_comment(5)
            with pytest.raises(UnexpectedReply) as caught:
                await anext(watched)
            await api.user_close(5)
            assert (await anext(watched)).event == "closed: for good"
    assert "hello" not in str(caught.value)


async def test_events_outside_of_subscriptions_come_to_functions() -> None:
    got: list[Any] = []
    async with awkward() as api:
        remove = api.on(API.Commented2Event, got.append)
        await api.client.call("user watch many")
        await api.user_comment(5)
        await until(lambda: bool(got))
        remove()
        with pytest.raises(TypeError, match="AnyEvent has no name"):
            api.on(API.AnyEvent, got.append)
    assert got == [API.Moved(x=5)]


def test_names_of_channels_are_those_of_the_server() -> None:
    assert API.NEWS_CHANNEL == awkward_client.news()
    made = awkward_client.room(house="h", floor=1, class_="{floor}")
    assert API.room_floor_channel("h", 1, class_="{floor}") == made
    assert API.ticket_channel(API.Color.RED) == "ticket/red"
    for wrong in ("", "a/b"):
        with pytest.raises(ValueError, match="id is empty or has a slash"):
            API.ticket_channel(wrong)


def test_a_generated_module_is_imported_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module_of(source_of(awkward_client.app))
