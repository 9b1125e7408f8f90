"""Types of the client, for mypy --strict and pyright; this file is never run."""
# pyright: strict

from typing import Any, assert_type

from pydantic import BaseModel, TypeAdapter

from websuckets.client import Client, CommandError, Credentials


class User(BaseModel):
    nickname: str


class NicknameTaken(CommandError): ...


async def log_in(client: Client) -> Credentials:
    return Credentials(await client.call("log in", "ann", result=str), user="ann")


def token_of(client: Client) -> str | None:
    return client.token


async def greet(event: Any) -> None: ...


def load(users: list[User]) -> None: ...


async def main() -> None:
    Client("ws://localhost", authenticate=token_of)
    async with Client("ws://localhost", authenticate=log_in, errors={"t": NicknameTaken}) as client:
        assert_type(await client.call("user create", result=User), User)
        assert_type(await client.call("user list", result=list[User], timeout=None), list[User])
        maybe: TypeAdapter[User | None] = TypeAdapter(User | None)
        assert_type(await client.call("user find", result=maybe), User | None)
        assert_type(await client.call("user delete"), Any)
        async for number in client.stream("count", 3, item=int):
            assert_type(number, int)
        async for item in client.stream("count", 3):
            assert_type(item, Any)
        remove = client.on("greeting", greet, payload=User)
        assert_type(remove(), None)
        async with client.subscribe("users", result=list[User], on_reload=load) as subscription:
            assert_type(subscription.reply, list[User])
            async for event in subscription:
                assert_type(event.event, str)
        await client.call("user create", result=5)  # type: ignore[call-overload]  # pyright: ignore
