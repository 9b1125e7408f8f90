"""Commands that declare the channels to which they subscribe."""

import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from harness import app_with, dial
from serving import Serving

from websuckets import Channels, CommandGroup, Event, Payload, Socket, WebSuckets
from websuckets.channels import Channel
from websuckets.exc import ConfigurationError

pytestmark = pytest.mark.anyio


class Closed(Event): ...


TICKET: Final = Channel("ticket/{id}", events=[Closed])
NEWS: Final = Channel("news")


def group_of(**options: Any) -> CommandGroup:
    group = CommandGroup("ticket")

    @group.command("watch", **options)
    async def watch(socket: Socket, id: Payload[int], *, channels: Channels) -> None:
        await channels.subscribe(socket, TICKET(id=id))
        await channels.publish(TICKET(id=id), Closed())

    return group


def test_a_command_is_listed_with_its_channels() -> None:
    """Expect each once, in their order, before the app starts, and whether or not it has them."""
    app = app_with(group_of(subscribes=[TICKET, NEWS, TICKET]))
    assert app.commands["ticket watch"].subscribes == (TICKET, NEWS)
    assert app_with(group_of()).commands["ticket watch"].subscribes == ()


def test_a_stream_may_subscribe() -> None:
    group = CommandGroup()

    @group.command("follow", subscribes=(NEWS,))
    async def follow(socket: Socket) -> AsyncIterator[int]:
        yield 1

    assert app_with(group).commands["follow"].subscribes == (NEWS,)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"subscribes": TICKET}, "write a list, subscribes=[...]"),
        ({"subscribes": "news"}, "write a list, subscribes=[...]"),
        ({"subscribes": None}, "write a list, subscribes=[...]"),
        ({"subscribes": ["news"]}, "'news' is not a Channel"),
        ({"subscribes": [TICKET(id=1)]}, "'ticket/1' is not a Channel; write the declaration"),
        ({"subscribes": [TICKET], "once": True}, "once cannot subscribe its connection"),
    ],
)
def test_what_is_not_a_list_of_channels_is_refused_where_it_stands(options: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)) as error:
        group_of(**options)
    assert "@group.command('watch'" in str(error.value)


async def test_a_channel_that_the_app_does_not_include_is_told_at_the_start() -> None:
    """Expect all of them to be told at once, with their commands."""
    app = WebSuckets(channels=[Channel("ticket/{id}"), Channel("other")])
    app.include_command_group(group_of(subscribes=[TICKET, NEWS]))
    with pytest.raises(ConfigurationError) as error:
        async with app.serve("127.0.0.1", 0):
            pass
    assert len(error.value.problems) == 2
    for problem, name in zip(error.value.problems, ["ticket/{id}", "news"], strict=True):
        assert problem.startswith("command 'ticket watch', ")
        assert f"the app does not include Channel('{name}')" in problem
        assert "WebSuckets(channels=[...])" in problem
    with pytest.raises(ConfigurationError, match="does not include"):
        app.graph()


async def test_a_command_subscribes_to_channels_that_the_app_includes(serving: Serving) -> None:
    """Expect a declaration that is equal to count as the same."""
    app = WebSuckets(channels=[Channel("ticket/{id}", events=[Closed]), NEWS])
    app.include_command_group(group_of(subscribes=[TICKET]))
    async with serving(app) as server, dial(server) as client:
        await client.send("ticket watch", payload=7)
        assert await client.receive() == {"event": "closed", "payload": {}}
