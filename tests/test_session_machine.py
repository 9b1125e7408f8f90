"""Online and verified users after any sequence of actions of clients and programs."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from time import time
from typing import Any, ClassVar, TypeAlias
from uuid import UUID

import anyio
import anyio.from_thread
import pytest
from anyio.from_thread import BlockingPortal
from harness import Client, app_with, dial
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from serving import Serving, by_websockets, in_memory
from timeouts import TIMEOUT

from websuckets import CommandGroup, Limits, Payload, Socket
from websuckets.security import CurrentUser
from websuckets.session import Session, User

UserId: TypeAlias = str | int

IDS: list[UserId] = ["ann", "bob", 0, 1, "1"]
"""Ids, some of which a careless comparison takes for None or for one another."""

MOSTLY_ANN = st.just("ann") | st.just("ann") | st.sampled_from(IDS)
"""Ids of which one is frequent, so that several connections belong to one user."""

TOKENS = ["", "red", "blue", "grün"]


def commands() -> CommandGroup:
    group = CommandGroup()

    @group.command("become")
    async def become(socket: Socket, id: Payload[UserId | None] = None, *, user: User) -> None:
        user.id = id

    @group.command("token")
    async def token(socket: Socket, token: Payload[str | None] = None, *, user: User) -> None:
        user.token = token

    @group.command("expire")
    async def expire(socket: Socket, at: Payload[float | None] = None, *, user: User) -> None:
        user.expires_at = at

    @group.command("revoke")
    async def revoke(socket: Socket, id: Payload[UserId], *, session: Session) -> None:
        await session.revoke(id)

    @group.command("whoami")
    async def whoami(socket: Socket, *, user: User) -> list[Any]:
        return [socket.id, user.id]

    @group.command("protected", protected=True)
    async def protected(socket: Socket, *, user: CurrentUser) -> list[Any]:
        return [socket.id, user.id]

    return group


@dataclass(eq=False)
class Known:
    """One connection in the model."""

    client: Client
    dialled: AbstractContextManager[Client]
    id: UUID
    user_id: UserId | None = None
    token: str | None = None
    expires: bool = False

    def become(self, id: UserId | None) -> None:
        if id != self.user_id:
            if self.user_id is not None:
                self.token, self.expires = None, False
            self.user_id = id


class Machine(RuleBasedStateMachine):
    """A state machine of an app and its clients, beside a model of both."""

    backend: ClassVar[str]
    serving: ClassVar[Any]

    connections: Bundle[Known] = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.online: list[Known] = []
        self.order: list[Known] = []  # of verification
        self.stack = ExitStack()
        self.portal: BlockingPortal = self.stack.enter_context(
            anyio.from_thread.start_blocking_portal(self.backend)
        )

    def do(self, step: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        async def in_time() -> Any:
            with anyio.fail_after(TIMEOUT):
                return await step(*arguments)

        return self.portal.call(in_time)

    @initialize(target=connections)
    def start(self) -> MultipleResults[Known]:
        """Start the app and three clients."""
        limits = Limits(auth_failures=None, rate=None, burst=None, finalize_timeout=0.5)
        app = app_with(commands(), limits=limits)
        self.session = app._session
        self.server = self.stack.enter_context(
            self.portal.wrap_async_context_manager(self.serving(app))
        )
        return multiple(*(self.connect_one() for _ in range(3)))

    def teardown(self) -> None:
        with self.stack:
            for known in list(self.online):
                self.leave(known)
        if hasattr(self, "session"):
            assert (self.session.online, self.session.verified) == ({}, {})

    # Steps

    @precondition(lambda self: len(self.online) < 6)
    @rule(target=connections)
    def connect(self) -> Known:
        return self.connect_one()

    def connect_one(self) -> Known:
        dialled = self.portal.wrap_async_context_manager(dial(self.server))
        client = dialled.__enter__()
        id, user_id = self.do(self.ask, client, "whoami")
        assert user_id is None
        known = Known(client, dialled, UUID(id))
        self.online.append(known)
        return known

    @rule(known=consumes(connections), how=st.sampled_from(["close", "vanish"]))
    def disconnect(self, known: Known, how: str) -> None:
        if known in self.online:
            self.do(getattr(known.client, how))
            self.leave(known)

    @rule(known=connections, id=MOSTLY_ANN)
    def verify(self, known: Known, id: UserId) -> None:
        """Verify a connection, perhaps again, or as another user."""
        if known in self.online:
            self.do(self.ask, known.client, "become", id)
            if id != known.user_id:
                self.forget(known)
                self.order.append(known)
            known.become(id)

    @rule(known=connections, id=MOSTLY_ANN, token=st.sampled_from(TOKENS))
    def log_in(self, known: Known, id: UserId, token: str) -> None:
        """Set the id and the token, like a program."""
        self.verify(known, id)
        self.set_token(known, token)

    @rule(id=MOSTLY_ANN)
    def all_become_the_same(self, id: UserId) -> None:
        """Verify every connection as one user, beginning with the oldest connection."""
        for known in self.online:
            self.verify(known, id)

    @rule(known=connections)
    def demote(self, known: Known) -> None:
        if known in self.online:
            self.do(self.ask, known.client, "become", None)
            self.forget(known)
            known.become(None)

    @rule(known=connections, token=st.sampled_from([*TOKENS, None]))
    def set_token(self, known: Known, token: str | None) -> None:
        if known in self.online:
            self.do(self.ask, known.client, "token", token)
            known.token = token

    @rule(known=connections, expires=st.booleans())
    def set_time(self, known: Known, expires: bool) -> None:
        """Set an expiry far enough ahead, or none."""
        if known in self.online:
            self.do(self.ask, known.client, "expire", time() + 1000 if expires else None)
            known.expires = expires

    @rule(known=connections)
    def expire(self, known: Known) -> None:
        """Expire the user: the connection is closed with 4401, whether it was verified or not."""
        if known in self.online:
            self.do(self.ask, known.client, "expire", time() - 1)
            assert self.do(known.client.closed) == (4401, "expired")
            self.leave(known)

    @rule(known=connections, id=st.sampled_from(IDS))
    def revoke(self, known: Known, id: UserId) -> None:
        """Revoke a user from any connection; a user that revokes itself gets no reply."""
        if known not in self.online:
            return
        theirs = [other for other in self.online if other.user_id == id]
        if known in theirs:
            self.do(partial(known.client.send, "revoke", payload=id))
        else:
            self.do(self.ask, known.client, "revoke", id)
        for other in theirs:
            assert self.do(other.client.closed) == (4401, "revoked")
            self.leave(other)

    @rule(known=connections, token=st.sampled_from([*TOKENS, None]))
    def ask_with_a_token(self, known: Known, token: str | None) -> None:
        if known in self.online:
            self.check_access(known, token)

    @rule(known=connections)
    def ask_with_the_right_token(self, known: Known) -> None:
        if known in self.online:
            self.check_access(known, known.token)

    @rule(known=connections)
    def ask_without_being_protected(self, known: Known) -> None:
        if known in self.online:
            assert self.do(self.ask, known.client, "whoami") == [str(known.id), known.user_id]

    def check_access(self, known: Known, token: str | None) -> None:
        reply = self.do(self.call, known.client, "protected", None, token)
        if known.user_id is not None and known.token and token == known.token:
            assert reply["payload"] == [str(known.id), known.user_id]
        else:
            assert reply == {"error": "not authorized", "details": None, "id": 1}

    # Invariants

    @invariant()
    def is_as_the_model_says(self) -> None:
        if not hasattr(self, "session"):
            return
        online = {id: user.id for id, user in self.session.online.items()}
        assert online == {known.id: known.user_id for known in self.online}
        newest = {known.user_id: known.id for known in self.order}
        verified = {id: user.socket.id for id, user in self.session.verified.items()}
        assert verified == newest
        for known in self.online:
            user = self.session.online[known.id]
            assert (user.token, user.expires_at is not None) == (known.token, known.expires)

    def leave(self, known: Known) -> None:
        """Close the connection, if it is not closed yet, and remove it from the model."""
        known.dialled.__exit__(None, None, None)
        self.do(self.until_gone, known.id)
        self.online.remove(known)
        self.forget(known)

    def forget(self, known: Known) -> None:
        if known in self.order:
            self.order.remove(known)

    async def until_gone(self, id: UUID) -> None:
        while id in self.session.online:
            await anyio.sleep(0)

    async def call(self, client: Client, event: str, payload: Any, token: str | None = None) -> Any:
        return await client.call(event, payload=payload, token=token, id=1)

    async def ask(self, client: Client, event: str, payload: Any = None) -> Any:
        return (await self.call(client, event, payload))["payload"]


def run(backend: str, serving: Serving, examples: int) -> None:
    class Here(Machine): ...

    Here.backend, Here.serving = backend, staticmethod(serving)
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples * settings.default.max_examples // 100,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_users_agree_with_a_model_in_memory(anyio_backend: str) -> None:
    """Run through the admission of the app, without a network."""
    run(anyio_backend, in_memory, 50)


def test_users_agree_with_a_model_over_websockets(anyio_backend: str) -> None:
    """Run over real connections."""
    run(anyio_backend, by_websockets, 10)


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("served", [in_memory, by_websockets])
def test_users_agree_with_a_model_for_longer(anyio_backend: str, served: Serving) -> None:
    """Run for longer, in memory and over real connections."""
    run(anyio_backend, served, 100)
