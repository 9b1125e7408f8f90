"""Interpreter of the scenarios of clients, ``tests/client/scenarios.json``, for the Python client.

Each scenario is a list of steps, each an object. The server runs, and the link to it works, when a
scenario begins; clients connect by the link, and the test's own commands go past it.

==================  ==============================================================================
``connect``         Make a client with these options, and begin to connect. ``authenticate`` is a
                    name: the client sends ``log in`` with it and takes the reply as its token.
``state``           Wait until the client comes into this state, or is in it since the last such
                    step.
``server``          ``start``, ``kill`` or ``stop`` the server.
``link``            ``cut`` it, let it be a ``black hole``, or ``restore`` it.
``control``         Call a command of the test; the ``reply`` is compared if it is given.
``call``            Call a command, with ``payload``, ``timeout``, ``key`` and ``once``, and expect
                    its ``reply``, its ``error``, or that the call ``fails`` with this class.
``begin``           Do the same as ``call`` or ``stream`` in a task of this name, until ``end``.
``stream``          Take ``items`` of a stream, and then ``leave``, or expect its end. Begun in a
                    task, the step waits for the items, and ``end`` for the end.
``subscribe``       Subscribe under this name by a ``command``, and expect its ``reply``.
``events``          Expect the next events of a subscription: their numbers.
``reloads``         Expect the replies with which the state was loaded anew so far.
``await reply``     Wait until the subscription has got the reply to its last command.
``on``, ``heard``   Note the payloads of an event, and expect those that were noted.
``token``           Set the token.
``authenticate``    Log in under this name from now on.
``renew``           Authenticate on the present connection.
``close``           Close the client.
==================  ==============================================================================
"""

import json
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from client_servers import LinkThread, ServerProcess
from repository import ROOT
from timeouts import TIMEOUT

from websuckets.client import Backoff, Client, CommandError, Credentials

SCENARIOS: Final[dict[str, list[dict[str, Any]]]] = {
    scenario["name"]: scenario["steps"]
    for scenario in json.loads((ROOT / "tests/client/scenarios.json").read_text())
}

Outcome = tuple[str, Any]
"""``"reply"``, ``"error"`` or ``"fails"``, and the payload, the name or the class."""


class Subscribed:
    """A subscription, and the replies with which it loaded its state anew."""

    def __init__(self) -> None:
        self.subscription: Any = None
        self.reloads: list[Any] = []


class Scenario:
    """One scenario while it runs."""

    def __init__(self, server: ServerProcess, link: LinkThread, tasks: TaskGroup) -> None:
        self._server = server
        self._link = link
        self._tasks = tasks
        self._stack = AsyncExitStack()
        self._states: list[str] = []
        self._changed = anyio.Event()
        self._begun: dict[str, tuple[anyio.Event, list[Outcome]]] = {}
        self._subscribed: dict[str, Subscribed] = {}
        self._heard: dict[str, list[Any]] = {}
        self._name = ""
        self._client: Any = None

    async def run(self, steps: list[dict[str, Any]]) -> None:
        """Take all steps. Raises `AssertionError` where one has another outcome."""
        async with self._stack:
            for number, step in enumerate(steps, 1):
                (verb, *_) = step
                method = getattr(self, f"do_{verb.replace(' ', '_')}")
                try:
                    with anyio.fail_after(TIMEOUT):
                        await method(step[verb], step)
                except BaseException as error:
                    error.add_note(f"in step {number}: {step}")
                    raise

    # The client

    async def do_connect(self, options: dict[str, Any], step: dict[str, Any]) -> None:
        options = dict(options)
        if (name := options.pop("authenticate", None)) is not None:
            self._name = name
            options["authenticate"] = self._log_in
        backoff = Backoff(first=0.02, most=0.1, later=options.pop("later", 0.05))
        url = f"ws://127.0.0.1:{self._link.port}"
        self._client = Client(url, backoff=backoff, proxy=None, close_timeout=1, **options)
        self._client.on_state(self._note_state)
        await self._stack.enter_async_context(self._client)

    async def _log_in(self, client: Client) -> Credentials:
        name = self._name
        return Credentials(await client.call("log in", name, result=str), user=name)

    def _note_state(self, state: str) -> None:
        self._states.append(state)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    async def do_state(self, state: str, step: dict[str, Any]) -> None:
        await self._until(lambda: state in self._states)
        del self._states[: self._states.index(state) + 1]

    async def do_token(self, token: str, step: dict[str, Any]) -> None:
        self._client.token = token

    async def do_authenticate(self, name: str, step: dict[str, Any]) -> None:
        self._name = name

    async def do_renew(self, value: bool, step: dict[str, Any]) -> None:
        await self._client.renew()

    async def do_close(self, value: bool, step: dict[str, Any]) -> None:
        await self._client.close()

    # The server and the link

    async def do_server(self, what: str, step: dict[str, Any]) -> None:
        await anyio.to_thread.run_sync(getattr(self._server, what))

    async def do_control(self, command: str, step: dict[str, Any]) -> None:
        payload = step.get("payload")
        reply = await anyio.to_thread.run_sync(self._server.control, command, payload)
        assert "reply" not in step or reply == step["reply"]

    async def do_link(self, what: str, step: dict[str, Any]) -> None:
        functions = {
            "cut": self._link.cut,
            "black hole": self._link.lose_all_data,
            "restore": self._link.restore,
        }
        await anyio.to_thread.run_sync(functions[what])

    # Commands

    async def do_call(self, event: str, step: dict[str, Any]) -> None:
        assert await self._outcome(self._called(event, step)) == expected(step)

    async def do_begin(self, name: str, step: dict[str, Any]) -> None:
        ended, outcomes, ready = anyio.Event(), list[Outcome](), anyio.Event()
        self._begun[name] = ended, outcomes

        async def run() -> None:
            if "stream" in step:
                outcomes.append(await self._outcome(self._streamed(step, ready)))
            else:
                outcomes.append(await self._outcome(self._called(step["call"], step)))
            ended.set()

        self._tasks.start_soon(run)
        if "stream" in step:
            await ready.wait()
        else:
            await anyio.wait_all_tasks_blocked()  # so that the calls are made in their order

    async def do_end(self, name: str, step: dict[str, Any]) -> None:
        ended, outcomes = self._begun[name]
        await ended.wait()
        assert outcomes == [expected(step)]

    async def do_stream(self, event: str, step: dict[str, Any]) -> None:
        outcome = await self._outcome(self._streamed(step, anyio.Event()))
        assert outcome == (("error", step["error"]) if "error" in step else ("reply", None))

    async def _called(self, event: str, step: dict[str, Any]) -> Any:
        options = {name: step[name] for name in ("timeout", "key", "once") if name in step}
        return await self._client.call(event, step.get("payload"), **options)

    async def _streamed(self, step: dict[str, Any], ready: anyio.Event) -> None:
        items = list(step["items"])
        async with aclosing(self._client.stream(step["stream"], step.get("payload"))) as stream:
            async for item in stream:
                if items:
                    assert item == items.pop(0)
                if not items:
                    ready.set()
                    if "leave" in step:
                        return
        assert not items

    async def _outcome(self, awaitable: Any) -> Outcome:
        try:
            return "reply", await awaitable
        except CommandError as error:
            return "error", error.error
        except AssertionError:
            raise
        except Exception as error:
            return "fails", type(error).__name__

    # Events

    async def do_subscribe(self, name: str, step: dict[str, Any]) -> None:
        subscribed = self._subscribed[name] = Subscribed()
        subscription = self._client.subscribe(
            step["command"],
            step.get("payload"),
            events=dict.fromkeys(step.get("events", ())),
            on_reload=subscribed.reloads.append,
        )
        subscribed.subscription = await self._stack.enter_async_context(subscription)
        assert subscription.reply == step["reply"]

    async def do_events(self, name: str, step: dict[str, Any]) -> None:
        subscription = self._subscribed[name].subscription
        events = [await anext(subscription) for _ in step["are"]]
        payloads = [event.payload for event in events]
        assert [p["number"] if isinstance(p, dict) else p for p in payloads] == step["are"]

    async def do_reloads(self, name: str, step: dict[str, Any]) -> None:
        assert self._subscribed[name].reloads == step["are"]

    async def do_await_reply(self, name: str, step: dict[str, Any]) -> None:
        # Commands of one connection are answered in their order, and it is sent before these.
        assert await self._client.call("add", [1]) == 1

    async def do_on(self, event: str, step: dict[str, Any]) -> None:
        heard = self._heard[event] = []

        def note(payload: Any) -> None:
            heard.append(payload)
            self._wake()

        self._client.on(event, note)

    async def do_heard(self, event: str, step: dict[str, Any]) -> None:
        await self._until(lambda: len(self._heard[event]) >= len(step["are"]))
        assert self._heard[event] == step["are"]


def expected(step: dict[str, Any]) -> Outcome:
    """Return the outcome that a step expects."""
    ((kind, value),) = [(k, step[k]) for k in ("reply", "error", "fails") if k in step]
    return kind, value
