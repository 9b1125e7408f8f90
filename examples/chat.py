"""Direct messages between everybody who chose a nickname.

Run it with ``python examples/chat.py``, connect twice with
``python -m websockets ws://localhost:9000`` and type::

    {"event": "join", "payload": {"nickname": "ann"}}
    {"event": "who", "token": "<the token of the reply>"}
    {"event": "say", "payload": {"to": "bob", "text": "hi"}, "token": "<the token of the reply>"}
"""

from pydantic import BaseModel, Field
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from websuckets import ClientEvent, CommandGroup, WebSuckets
from websuckets.exc import ClientError
from websuckets.security import CurrentUser, Token
from websuckets.session import Session, User


class Nickname(BaseModel):
    nickname: str = Field(min_length=1, max_length=32)


class DirectMessage(BaseModel):
    to: str
    text: str = Field(max_length=1000)


class NotHere(ClientError):
    def __init__(self, nickname: str) -> None:
        super().__init__("not here", {"nickname": nickname})


lobby = CommandGroup()
room = CommandGroup(protected=True)


@lobby.command("join")
async def join(
    socket: ServerConnection, model: Nickname, user: User, session: Session
) -> ClientEvent:
    if model.nickname in session.verified:
        raise ClientError("nickname taken")
    user.id = model.nickname
    user.token = Token.generate()
    return ClientEvent("joined", {"token": user.token})


@room.command("who")
async def who(socket: ServerConnection, *, session: Session) -> list[str]:
    return sorted(str(nickname) for nickname in session.verified)


@room.command("say")
async def say(
    socket: ServerConnection, model: DirectMessage, user: CurrentUser, session: Session
) -> None:
    receiver = session.verified.get(model.to)
    if receiver is None:
        raise NotHere(model.to)
    try:
        await receiver.socket.send(ClientEvent("said", {"from": user.id, "text": model.text}))
    except ConnectionClosed:
        raise NotHere(model.to) from None


app = WebSuckets()
app.include_command_group(lobby)
app.include_command_group(room)

if __name__ == "__main__":
    app.run("localhost", 9000)
