"""Subscriptions of one message, from its handler to its reply."""

from typing import Any

import pytest
import tickets
from harness import app_with, errors
from tickets import NAME, ticket

from websuckets import CommandGroup, Payload, Socket
from websuckets.channels import Channels
from websuckets.delivery.subscribing import Made, Subscribing
from websuckets.exc import ClientError
from websuckets.session import User
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class Journal:
    """Record of what a subscription is told to do."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def made(self, name: str) -> Made:
        def note(what: str) -> Any:
            return lambda *given: self.entries.append(f"{what} {name}")

        async def earlier_sent() -> None:
            self.entries.append(f"wait for {name}")

        return Made(
            {"epoch": "e", "offset": 1},
            note("hold"),
            earlier_sent,
            note("tell"),
            note("begin"),
            note("take back"),
            lambda: True,
        )


async def test_a_reply_that_is_sent_again_holds_its_subscriptions_once() -> None:
    journal = Journal()
    subscribing = Subscribing(socket=None, has_id=True)  # type: ignore[arg-type]  # it is not used
    subscribing.add("a", journal.made("a"))
    subscribing.add("b", journal.made("b"))
    assert subscribing.in_reply('{"event":"x"}') is not None
    await subscribing.hold()
    await subscribing.hold()
    subscribing.begin()
    entries = ["hold a", "hold b", "wait for a", "wait for a", "begin a", "begin b"]
    assert journal.entries == entries


async def test_subscribing_twice_in_one_message_makes_one_subscription() -> None:
    journal = Journal()
    subscribing = Subscribing(socket=None)  # type: ignore[arg-type]  # it is not used
    subscribing.add("a", journal.made("first"))
    subscribing.add("a", journal.made("second"))
    subscribing.begin()
    assert journal.entries == ["take back first", "tell second", "begin second"]


async def test_nothing_is_sent_for_a_message_whose_subscriptions_were_taken_back() -> None:
    journal = Journal()
    subscribing = Subscribing(socket=None)  # type: ignore[arg-type]  # it is not used
    subscribing.add("a", journal.made("a"))
    subscribing.end()
    await subscribing.hold()
    subscribing.begin()
    assert journal.entries == ["take back a"]


async def test_a_command_that_does_not_declare_its_channel_is_told_what_to_write(
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = CommandGroup()

    @group.command("watch")
    async def watch(socket: Socket, *, channels: Channels) -> None:
        await channels.subscribe(socket, NAME)

    async with TestClient(app_with(group, channels=[ticket, tickets.short])) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call("watch")
    assert "subscribes=[...]" in str(errors(caplog)[0].exc_info)


@pytest.mark.parametrize("fails", [True, False])
async def test_only_a_command_that_succeeds_makes_a_subscription_outlive_its_user(
    fails: bool,
) -> None:
    group = CommandGroup()

    @group.command("enter")
    async def enter(socket: Socket, name: Payload[str | None], user: User) -> None:
        user.id, user.token = name, None if name is None else f"secret of {name}"

    @group.command("watch", subscribes=[ticket])
    async def watch(socket: Socket, public: Payload[bool], *, channels: Channels) -> None:
        await channels.subscribe(socket, NAME, public=public)
        if public and fails:
            raise ClientError("no")

    @group.command("comment")
    async def comment(socket: Socket, *, channels: Channels) -> None:
        await channels.publish(NAME, tickets.Commented(text="new"))

    async with TestClient(app_with(group, channels=[ticket])) as client:
        await client.call("enter", "ann")
        await client.call("watch", False)
        if fails:
            with pytest.raises(CommandError, match="no"):
                await client.call("watch", True)
        else:
            await client.call("watch", True)
        await client.call("enter", None)
        await client.call("comment")
        await client.send("end")  # an unknown command
        texts = ["unknown command"] if fails else ["commented", "unknown command"]
        for text in texts:
            assert text in str(await client.receive_frame())
