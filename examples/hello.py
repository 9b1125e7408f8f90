"""The smallest server: one command, one payload, one dependency.

Run it with ``python examples/hello.py``, connect with ``python -m websockets ws://localhost:9000``
and type ``{"event": "hello", "payload": {"name": "Ann"}}``.
"""

from datetime import datetime

from dishka import Provider, Scope, provide
from pydantic import BaseModel
from websockets.asyncio.server import ServerConnection

from websuckets import ClientEvent, CommandGroup, WebSuckets


class Greeting:
    """Knows what to say at this time of the day."""

    def __init__(self, now: datetime) -> None:
        self.words = "Good morning" if now.hour < 12 else "Good day"


class Greetings(Provider):
    @provide(scope=Scope.REQUEST)
    def now(self) -> datetime:
        return datetime.now()

    greeting = provide(Greeting, scope=Scope.REQUEST)


class Name(BaseModel):
    name: str


group = CommandGroup()


@group.command("hello")
async def hello(socket: ServerConnection, model: Name, greeting: Greeting) -> ClientEvent:
    return ClientEvent("greeting", f"{greeting.words}, {model.name}!")


app = WebSuckets(providers=[Greetings()])
app.include_command_group(group)

if __name__ == "__main__":
    app.run("localhost", 9000)
