"""Registration, authentication, and a list that only the registered may see.

Run it with ``python examples/users.py``, connect with ``python -m websockets ws://localhost:9000``
and type::

    {"event": "user register", "payload": {"login": "ann", "password": "correct horse"}, "id": 1}
    {"event": "user enter", "payload": {"login": "ann", "password": "correct horse"}}
    {"event": "user list", "token": "<the token of the reply>"}
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from functools import partial

from anyio import to_thread
from dishka import Provider, Scope, provide
from pydantic import BaseModel, SecretStr
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, WebSuckets
from websuckets.exc import ClientError
from websuckets.security import Token
from websuckets.session import User


class Credentials(BaseModel):
    login: str
    password: SecretStr


class LoginTaken(ClientError):
    """Somebody has registered with this login."""  # sent as "login taken"


class WrongCredentials(ClientError):
    """Nobody has registered with this login, or not with this password."""

    error = "wrong login or password"


@dataclass(frozen=True)
class Account:
    login: str
    salt: bytes
    password_hash: bytes


class Accounts:
    """All accounts, in memory; it lives as long as the server."""

    def __init__(self) -> None:
        self._by_login: dict[str, Account] = {}

    async def register(self, credentials: Credentials) -> None:
        salt = secrets.token_bytes(16)
        password_hash = await self._hash(credentials.password, salt)
        if credentials.login in self._by_login:  # now: others may have registered meanwhile
            raise LoginTaken
        self._by_login[credentials.login] = Account(credentials.login, salt, password_hash)

    async def check(self, credentials: Credentials) -> None:
        nobody = Account("", b"", b"")  # hashed all the same: the time tells nothing of the login
        account = self._by_login.get(credentials.login, nobody)
        password_hash = await self._hash(credentials.password, account.salt)
        if not hmac.compare_digest(password_hash, account.password_hash):
            raise WrongCredentials

    def logins(self) -> list[str]:
        return sorted(self._by_login)

    @staticmethod
    async def _hash(password: SecretStr, salt: bytes) -> bytes:
        """Return a hash, made in a thread: it takes long on purpose, and others are served."""
        secret = password.get_secret_value().encode()
        return await to_thread.run_sync(
            partial(hashlib.scrypt, secret, salt=salt, n=2**14, r=8, p=1)
        )


class AccountsProvider(Provider):
    accounts = provide(Accounts, scope=Scope.APP)


group = CommandGroup("user")


@group.command("register", raises=[LoginTaken])
async def register(socket: ServerConnection, model: Credentials, accounts: Accounts) -> None:
    await accounts.register(model)


@group.command("enter", raises=[WrongCredentials])
async def enter(
    socket: ServerConnection, model: Credentials, accounts: Accounts, user: User
) -> Token:
    await accounts.check(model)
    user.id = model.login
    user.token = Token.generate()
    return user.token


@group.command("list", protected=True)
async def list_users(socket: ServerConnection, accounts: Accounts) -> list[str]:
    return accounts.logins()


app = WebSuckets(providers=[AccountsProvider()])
app.include_command_group(group)

if __name__ == "__main__":
    app.run("localhost", 9000)
