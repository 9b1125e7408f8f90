"""Values of any types, on the wire and in the schemas of the document."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from documents import validator_of
from harness import app_with, dial
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, create_model
from serving import in_memory
from typed_values import Typed, typed

from websuckets import Channels, ClientError, CommandGroup, Event, Payload, Socket, WebSuckets
from websuckets.channels import Channel


def app_of(received: Typed, sent: Typed, value: Any) -> WebSuckets:
    """Return an app that takes payloads of a type, and sends values of another type every way."""
    hint: Any = sent.hint
    taken: Any = received.hint
    group = CommandGroup()
    Made: Any = create_model("Made", __base__=Event, value=(hint, ...))

    class Failed(ClientError):
        details: hint

    news = Channel("news", events=[Made])

    @group.command("take")
    async def take(socket: Socket, payload: Payload[taken]) -> None: ...

    @group.command("echo")
    async def echo(socket: Socket, payload: Payload[hint]) -> hint:
        return payload

    @group.command("give")
    async def give(socket: Socket) -> hint:
        return value

    @group.command("stream")
    async def stream(socket: Socket) -> AsyncIterator[hint]:
        yield value

    @group.command("fail", raises=[Failed])
    async def fail(socket: Socket) -> None:
        raise Failed(details=value)

    @group.command("event")
    async def event(socket: Socket) -> Made | None:
        return Made.model_construct(value=value)

    @group.command("publish", subscribes=[news])
    async def publish(socket: Socket, channels: Channels) -> None:
        await channels.subscribe(socket, news())
        await channels.publish(news(), Made(value=value))

    return app_with(group, channels=[news])


def checked(document: dict[str, Any], operation: str, frame: Any) -> None:
    """Expect a frame to fit the message of an operation that has its name."""
    declared = document["operations"][operation]
    messages = [*declared.get("reply", declared)["messages"]]
    keys = [message["$ref"].rpartition("/")[2] for message in messages]
    kind = "error" if "error" in frame else "event"
    found = [
        key
        for key in keys
        if (properties := document["components"]["messages"][key]["payload"]["properties"])
        and properties.get(kind, {}).get("const", frame[kind]) == frame[kind]
        and kind in properties
        and ("more" in frame) == ("more" in properties)
    ]
    assert found, f"{operation} has no message for {frame}"
    errors = [list(validator_of(document, key).iter_errors(frame)) for key in found]
    assert [] in errors, f"{frame} does not fit {found}: {errors}"


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(received=typed(), sent=typed(), data=st.data())
def test_all_that_is_sent_and_accepted_fits_its_schema(
    received: Typed, sent: Typed, data: st.DataObject
) -> None:
    """Expect replies, items, events and details to fit, and dumped values to be accepted."""
    payload, value = data.draw(received.values), data.draw(sent.values)
    app = app_of(received, sent, value)
    document = app.asyncapi()
    json.dumps(document, allow_nan=False)

    async def main() -> None:
        async with in_memory(app) as server, dial(server) as client:
            for event, hint, given in (
                ("take", received.hint, payload),
                ("echo", sent.hint, value),
            ):
                dumped = TypeAdapter(hint).dump_python(
                    given, mode="json", by_alias=True, warnings=False
                )
                frame = {"event": event, "payload": dumped, "id": 1}
                assert list(validator_of(document, event).iter_errors(frame)) == []
                reply = await client.call(event, payload=dumped, id=1)
                assert "error" not in reply, reply
                checked(document, event, reply)
            for event in ("give", "stream", "fail", "event"):
                reply = await client.call(event, id=2)
                assert event == "fail" or "error" not in reply, reply
                checked(document, event, reply)
                if event == "stream":
                    checked(document, event, await client.receive())
            frames = [await client.call("publish", id=3), await client.receive()]
            (published,) = [frame for frame in frames if "id" not in frame]
            checked(document, "channel.news", published)

    anyio.run(main)
