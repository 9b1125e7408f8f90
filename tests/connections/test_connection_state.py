"""States of a connection: the table of states and events, and what clients see of it."""

from typing import Final

import anyio
import pytest
from harness import Gate, app_with, dial
from hypothesis import given
from hypothesis import strategies as st
from serving import Serving

from websuckets import CommandGroup, Socket
from websuckets.connections.message_loop import MessageLoop
from websuckets.connections.state import ConnectionState, State
from websuckets.session import User
from websuckets.testing import TestClient
from websuckets.transports.plain import PlainSocket

FIRST: Final = (1012, "service restart")
SECOND: Final = (4401, "expired")

TABLE: Final = {
    State.OPENING: {"opened": State.OPEN, "close": State.REFUSING, "cancel": State.ABORTING},
    State.REFUSING: {"opened": State.CLOSING, "cancel": State.ABORTING},
    State.OPEN: {"close": State.CLOSING, "cancel": State.ABORTING},
    State.CLOSING: {"cancel": State.ABORTING},
    State.ABORTING: {},
    State.CLOSED: {},
}
"""The state after each event; an event that is not in the table changes nothing."""

WAYS: Final = {
    State.OPENING: [],
    State.REFUSING: ["close"],
    State.OPEN: ["opened"],
    State.CLOSING: ["opened", "close"],
    State.ABORTING: ["opened", "cancel"],
    State.CLOSED: ["opened", "ended"],
}
"""Events that lead to each state."""


def happens(state: ConnectionState, event: str) -> None:
    if event == "close":
        state.close(FIRST)
    else:
        getattr(state, event)()


@pytest.mark.parametrize("event", ["opened", "close", "cancel", "ended"])
@pytest.mark.parametrize("before", State)
def test_an_event_leads_to_the_state_in_the_table(before: State, event: str) -> None:
    state = ConnectionState()
    for earlier in WAYS[before]:
        happens(state, earlier)
    assert state.present is before
    happens(state, event)
    after = State.CLOSED if event == "ended" else TABLE[before].get(event, before)
    assert state.present is after
    assert state.is_open is (after is State.OPEN)


@given(st.lists(st.sampled_from(["opened", "close", "cancel"])))
def test_the_first_reason_to_close_is_kept(events: list[str]) -> None:
    """The client is told of one reason, whatever happens afterwards."""
    state = ConnectionState()
    state.close(FIRST)
    for event in events:
        happens(state, event)
        state.close(SECOND)
    assert state.close_reason == FIRST


@pytest.mark.parametrize("before", State)
def test_only_a_connection_that_is_served_has_to_be_aborted(before: State) -> None:
    """A connection that is still opening ends with its handshake."""
    state = ConnectionState()
    for earlier in WAYS[before]:
        happens(state, earlier)
    assert state.cancel() == (before in (State.OPEN, State.CLOSING))


@pytest.mark.anyio
async def test_a_connection_closes_once_its_command_has_finished(serving: Serving) -> None:
    """A reason to close that comes while a command runs waits for the reply."""
    group, gate = CommandGroup(), Gate()

    @group.command("expire")
    async def expire(socket: Socket, *, user: User) -> str:
        user.id, user.expires_at = "ann", 1
        await gate()
        return "the reply"

    async with serving(app_with(group)) as server, dial(server) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, "expire")
            await gate.reached.wait()
            gate.opened.set()
        assert (await client.receive())["payload"] == "the reply"
        assert await client.closed() == (4401, "expired")


@pytest.mark.anyio
async def test_a_close_that_fails_after_an_error_of_the_framework_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of the two is an incident."""

    async def fail(*arguments: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(MessageLoop, "run", fail)
    monkeypatch.setattr(PlainSocket, "close", fail)
    with pytest.raises(RuntimeError, match="on purpose"):  # as a test client tells of incidents
        async with TestClient(app_with(CommandGroup())) as client:
            await client.wait_closed()
    texts = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(texts) == 2
    assert all("incident" in text for text in texts)
