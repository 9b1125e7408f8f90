"""Mistakes in providers, in containers of the program's own, and in the protection of commands."""

from typing import Final

from mistakes import Mistake

BEGIN: Final = """\
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from dishka import FromComponent, Provider, Scope, make_async_container, provide
from websuckets import CommandGroup, Message, OnCommit, Payload, Socket, WebSuckets
from websuckets.di import ScopeFactory, lock_factory, provide_context, setup_dishka
from websuckets.exc import NotAuthorized
from websuckets.security import CurrentUser, HandshakeSecurityProvider, Identity, SecurityProvider
from websuckets.session import Session, User

class Db: ...
class Admin: ...
group = CommandGroup()

"""

RUN: Final = (
    '@group.command("run")  # here\nasync def run(socket: Socket, *, db: Db) -> None: ...\n'
)
STARTS: Final = (
    "app = WebSuckets(providers=[Things()])\napp.include_command_group(group)\ntalk(app)\n"
)
CONTAINS: Final = """\
app = WebSuckets()
app.include_command_group(group)
container = make_async_container(Things(), *app.providers, lock_factory=lock_factory)
setup_dishka(container, app)
talk(app, "run")
"""
THINGS: Final = "class Things(Provider):\n    db = provide(Db, scope=Scope.REQUEST)\n"
NOTHING: Final = "class Things(Provider): ...\n"


def mistake(
    name: str, body: str, *says: str, mended: dict[str, str], place: str | None = "line"
) -> Mistake:
    return Mistake(name, BEGIN + body, says, tuple(mended.items()), place)


DEPENDENCIES: Final = (
    mistake(
        "a type that nothing provides",
        NOTHING + RUN + STARTS,
        "command 'run', `program.run` (",
        "parameter `db: Db` cannot be provided; give a provider of what is missing to "
        "WebSuckets(providers=[...])",
        mended={"class Things(Provider): ...\n": THINGS},
    ),
    mistake(
        "a provider that misses something",
        "class Pool: ...\n"
        "class Things(Provider):\n"
        "    @provide(scope=Scope.REQUEST)\n"
        "    def db(self, pool: Pool) -> Db: return Db()\n" + RUN + STARTS,
        "command 'run'",
        "parameter `db: Db` cannot be provided",
        "give a provider of what is missing",
        "program.Pool",
        mended={"    @provide": "    pool = provide(Pool, scope=Scope.APP)\n    @provide"},
    ),
    mistake(
        "a provider of a narrower scope than what asks for it",
        "class Pool:\n    def __init__(self, db: Db) -> None: ...\n"
        "class Things(Provider):\n"
        "    db = provide(Db, scope=Scope.REQUEST)\n"
        "    pool = provide(Pool, scope=Scope.APP)\n" + RUN + STARTS,
        "a provider misses something",
        "program.Pool",
        "invalid scope",
        "Scope.APP",
        mended={"Pool, scope=Scope.APP": "Pool, scope=Scope.REQUEST"},
        place="program.Db",
    ),
    mistake(
        "providers that need each other",
        "class A:\n    def __init__(self, b: 'B') -> None: ...\n"
        "class B:\n    def __init__(self, a: A) -> None: ...\n"
        "class Things(Provider):\n"
        "    scope = Scope.REQUEST\n    a = provide(A)\n    b = provide(B)\n"
        '@group.command("run")\nasync def run(socket: Socket, *, a: A) -> None: ...\n' + STARTS,
        "Cycle dependencies detected",
        "program.A",
        "program.B",
        "let one of them do without the next",
        mended={"b: 'B'": ""},
        place="program.A",
    ),
    mistake(
        "a provider of another component",
        "class Things(Provider):\n"
        "    component = 'billing'\n    db = provide(Db, scope=Scope.REQUEST)\n" + RUN + STARTS,
        "command 'run'",
        "parameter `db: Db` cannot be provided",
        "billing",
        "FromComponent",
        mended={"*, db: Db": "*, db: Annotated[Db, FromComponent('billing')]"},
    ),
    mistake(
        "a provider that is a class",
        THINGS + RUN.replace("  # here", "") + STARTS.replace("[Things()])", "[Things])  # here"),
        "is not a provider; create it: Things()",
        mended={"[Things]": "[Things()]"},
    ),
    mistake(
        "a provider that is not in a list",
        THINGS + RUN.replace("  # here", "") + STARTS.replace("[Things()])", "Things())  # here"),
        "write a list",
        mended={"=Things()": "=[Things()]"},
    ),
    mistake(
        "a context that is a generator without its decorator",
        "async def db() -> AsyncIterator[Db]:  # here\n    yield Db()\n"
        "def Things() -> Any: return provide_context(db)\n" + RUN.replace("  # here", "") + STARTS,
        "provide_context(`program.db`",
        "a generator is not a context manager; put @asynccontextmanager or @contextmanager on it",
        mended={"async def db": "@asynccontextmanager\nasync def db"},
    ),
    mistake(
        "a context that provides nothing that is known",
        "@asynccontextmanager  # here\nasync def db():\n    yield Db()\n"
        "def Things() -> Any: return provide_context(db)\n" + RUN.replace("  # here", "") + STARTS,
        "what does it provide? Say `provides=`",
        mended={"async def db():": "async def db() -> AsyncIterator[Db]:"},
    ),
    mistake(
        "a context that is called",
        "@asynccontextmanager\nasync def db() -> AsyncIterator[Db]:\n    yield Db()\n"
        "def Things() -> Any: return provide_context(db())  # here\n"
        + RUN.replace("  # here", "")
        + STARTS,
        "pass what makes the context, without calling it",
        mended={"context(db())": "context(db)"},
    ),
    mistake(
        "a sessionmaker that never commits",
        "from sqlalchemy import create_engine\n"
        "from sqlalchemy.orm import Session as Sql, sessionmaker\n"
        "make = sessionmaker(create_engine('sqlite://'))\n"
        "def Things() -> Any: return provide_context(make, provides=Sql)\n"
        '@group.command("run")\nasync def run(socket: Socket, *, db: Sql) -> None: ...\n' + STARTS,
        "provide_context(sessionmaker",
        "without a commit",
        "write provide_context(sessionmaker.begin, ...)",
        mended={"(make,": "(make.begin,"},
        place="provides=Session",
    ),
    mistake(
        "a model that the container provides stands where the payload does",
        "from pydantic import BaseModel\nclass Settings(BaseModel): ...\n"
        "class Things(Provider):\n"
        "    settings = provide(lambda self: Settings(), provides=Settings, scope=Scope.APP)\n"
        '@group.command("run")  # here\n'
        "async def run(socket: Socket, settings: Settings) -> None: ...\n" + STARTS,
        "command 'run'",
        "parameter `settings: Settings` stands where the client's payload does",
        "write Payload[Settings] if the client sends it, or FromDishka[Settings]",
        mended={
            "settings: Settings)": "settings: FromDishka[Settings])",
            "class Settings": "from websuckets.di import FromDishka\nclass Settings",
        },
    ),
    mistake(
        "a container of the program's own that lacks what a command needs",
        NOTHING + RUN + CONTAINS,
        "Cannot find factory for (Db, component='')",
        "command 'run'",
        mended={"class Things(Provider): ...\n": THINGS},
    ),
    mistake(
        "a container of the program's own without security",
        THINGS + RUN.replace('"run")', '"run", protected=True)') + CONTAINS,
        "Cannot find factory for (CurrentUser, component='')",
        "command 'run'",
        "SecurityProvider()",
        mended={"(Things(), *app": "(Things(), SecurityProvider(), *app"},
    ),
    mistake(
        "a container of the program's own without the app's providers",
        THINGS + RUN.replace("  # here", "") + CONTAINS.replace("*app.providers, ", ""),
        "the container does not contain this app's providers",
        "*app.providers",
        mended={"(Things(), lock": "(Things(), *app.providers, lock"},
        place="setup_dishka(container, app)",
    ),
    mistake(
        "a container that no app was given",
        THINGS + RUN + CONTAINS.replace("setup_dishka(container, app)\n", ""),
        "cannot be provided",
        "setup_dishka(container, app)",
        mended={"talk(app": "setup_dishka(container, app)\ntalk(app"},
    ),
    mistake(
        "a group that is included when the container is built already",
        THINGS
        + RUN.replace("  # here", "")
        + CONTAINS.replace("app.include_command_group(group)\n", "").replace(
            "talk", "app.include_command_group(group)  # here\ntalk"
        ),
        "app.providers was read already",
        "include CommandGroup('', commands=1) before",
        mended={
            "app.include_command_group(group)  # here\n": "",
            "container =": "app.include_command_group(group)\ncontainer =",
        },
    ),
    mistake(
        "a command that is added when the container is built already",
        THINGS + "app = WebSuckets()\napp.include_command_group(group)\n"
        "container = make_async_container(Things(), *app.providers, lock_factory=lock_factory)\n"
        "setup_dishka(container, app)\n" + RUN.replace("  # here", "") + "talk(app)\n",
        "the commands ['run'] came after app.providers was read",
        "import what adds commands to groups before",
        mended={
            "container =": RUN.replace("  # here", "") + "container =",
            "setup_dishka(container, app)\n"
            + RUN.replace("  # here", ""): "setup_dishka(container, app)\n",
        },
        place="make_async_container(",
    ),
    mistake(
        "an app with providers and a container",
        THINGS
        + RUN.replace("  # here", "")
        + CONTAINS.replace("WebSuckets()", "WebSuckets(providers=[Things()])").replace(
            "setup_dishka(container, app)", "setup_dishka(container, app)  # here"
        ),
        "the app has providers of its own",
        "give them to make_async_container()",
        mended={"WebSuckets(providers=[Things()])": "WebSuckets()"},
    ),
    mistake(
        "setup_dishka for an app of FastAPI",
        THINGS + "from fastapi import FastAPI\n"
        "setup_dishka(make_async_container(Things()), FastAPI())  # here\n",
        "FastAPI is not a WebSuckets app",
        "dishka.integrations",
        mended={
            "setup_dishka(": "from dishka.integrations.fastapi import setup_dishka\nsetup_dishka(",
        },
    ),
)
"""Mistakes in what commands depend on."""

PROTECTED: Final = (
    '@group.command("run", protected=Admin)  # here\nasync def run(socket: Socket) -> None: ...\n'
)

SCOPES: Final = (
    mistake(
        "effects in a stream",
        THINGS + '@group.command("run")  # here\n'
        "async def run(socket: Socket, *, on_commit: OnCommit) -> AsyncIterator[int]:\n"
        "    yield 1\n" + STARTS,
        "command 'run', `program.run` (",
        "parameter `on_commit: OnCommit`: a stream ends by a cancellation as a rule, which commits "
        "nothing; open a scope for each step with ScopeFactory[tuple[AsyncSession, OnCommit]]",
        mended={"on_commit: OnCommit": "new_scope: ScopeFactory[tuple[Db, OnCommit]]"},
    ),
    mistake(
        "an effect that is called by the handler",
        THINGS + "async def send() -> None: ...\n"
        '@group.command("run")\n'
        "async def run(socket: Socket, *, on_commit: OnCommit) -> None:\n"
        "    on_commit(send())  # here\n" + STARTS.replace("talk(app)", 'talk(app, "run")'),
        "on_commit(function, ...): pass a function and its arguments, without calling it, not a "
        "coroutine",
        mended={"send())": "send)"},
    ),
    mistake(
        "a scope factory without a type",
        THINGS + '@group.command("run")  # here\n'
        "async def run(socket: Socket, *, new_scope: ScopeFactory) -> None: ...\n" + STARTS,
        "command 'run', `program.run` (",
        "`ScopeFactory`: nothing says what its scopes give; write the type of the object, as in "
        "ScopeFactory[AsyncSession]",
        mended={"new_scope: ScopeFactory": "new_scope: ScopeFactory[Db]"},
    ),
    mistake(
        "a scope factory that is not called",
        THINGS + '@group.command("run")\n'
        "async def run(socket: Socket, *, new_scope: ScopeFactory[Db]) -> None:\n"
        "    async with new_scope as db: ...  # here\n"
        + STARTS.replace("talk(app)", 'talk(app, "run")'),
        "ScopeFactory[Db] opens scopes; call it: `async with new_scope() as ...`",
        mended={"with new_scope as": "with new_scope() as"},
    ),
)

SECURITY: Final = (
    mistake(
        "a guard that is a word",
        PROTECTED.replace("=Admin", '="admin"')
        + "def Things() -> Any: return Provider()\n"
        + STARTS,
        "protected=",
        "'admin'",
        "is not a guard; pass True, False or a type of your own",
        mended={'"admin"': "True"},
    ),
    mistake(
        "a guard that lets everybody pass",
        PROTECTED.replace("Admin", "CurrentUser | None")
        + "def Things() -> Any: return Provider()\n"
        + STARTS,
        "guards nothing, because None passes",
        mended={"CurrentUser | None": "CurrentUser"},
    ),
    mistake(
        "a guard that nothing provides",
        PROTECTED + "def Things() -> Any: return Provider()\n" + STARTS,
        "command 'run'",
        "its guard `Admin` cannot be provided",
        mended={
            "def Things() -> Any: return Provider()\n": "class Things(Provider):\n"
            "    admin = provide(Admin, scope=Scope.REQUEST)\n"
        },
    ),
    mistake(
        "a guard that is checked once",
        PROTECTED
        + "class Things(Provider):\n    admin = provide(Admin, scope=Scope.APP)\n"
        + STARTS,
        "command 'run'",
        "its guard `Admin` has",
        "provide it with Scope.REQUEST",
        mended={"Scope.APP": "Scope.REQUEST"},
    ),
    mistake(
        "a user for an open command",
        '@group.command("run", protected=False)  # here\n'
        "async def run(socket: Socket, *, user: CurrentUser) -> None: ...\n"
        "def Things() -> Any: return Provider()\n" + STARTS,
        "command 'run'",
        "parameter `user: CurrentUser` protects the command",
        "`user: CurrentUser | None` to serve everybody",
        mended={"user: CurrentUser)": "user: CurrentUser | None)"},
    ),
    mistake(
        "a provider of CurrentUser that gives something else",
        '@group.command("run")\n'
        "async def run(socket: Socket, *, user: CurrentUser) -> str: return str(user.id)\n"
        "class Things(Provider):\n"
        "    @provide(scope=Scope.REQUEST)\n"
        "    def user(self, user: User) -> CurrentUser:  # here\n"
        "        user.id = 'ann'\n        return user\n"
        + STARTS.replace("talk(app)", 'talk(app, "run")'),
        "a provider of CurrentUser gave an object of type User",
        "return CurrentUser(user)",
        mended={"return user\n": "return CurrentUser(user)\n"},
        place="'run'",
    ),
    mistake(
        "an identity that is a name",
        RUN.replace("  # here", "").replace("*, db: Db", "")
        + "async def find() -> Identity | None:  # here\n    return 'ann'\n"
        "def Things() -> Any: return HandshakeSecurityProvider(find)\n"
        + STARTS.replace("()])", "()], origins=[None])"),
        "it returned an object of type str",
        "return Identity(user_id) or None",
        mended={"return 'ann'": "return Identity('ann')"},
        place="`program.find`",
    ),
    mistake(
        "a handshake that any page may make",
        RUN.replace("  # here", "").replace("*, db: Db", "")
        + "async def find() -> Identity | None:\n    return Identity('ann')\n"
        "def Things() -> Any: return HandshakeSecurityProvider(find)\n" + STARTS,
        "clients are verified at their handshake",
        'WebSuckets(origins=["https://example.org"])',
        mended={"[Things()])": "[Things()], origins=[None])"},
        place=None,
    ),
    mistake(
        "an id that is a record",
        '@group.command("run")\nasync def run(socket: Socket, *, user: User) -> None:\n'
        "    user.id = Db()  # here\n"
        "def Things() -> Any: return Provider()\n"
        + STARTS.replace("talk(app)", 'talk(app, "run")'),
        "User.id is a str, an int or None, not Db",
        "'run' failed",
        mended={"user.id = Db()": "user.id = 7"},
    ),
    mistake(
        "a token that is bytes",
        '@group.command("run")\nasync def run(socket: Socket, *, user: User) -> None:\n'
        "    user.id, user.token = 1, b'secret'  # here\n"
        "def Things() -> Any: return Provider()\n"
        + STARTS.replace("talk(app)", 'talk(app, "run")'),
        "User.token is a str or None, not bytes; Token.generate() makes one",
        mended={
            "b'secret'": "Token.generate()",
            "class Db": "from websuckets.security import Token\nclass Db",
        },
    ),
    mistake(
        "a user that is saved where nothing keeps it",
        '@group.command("run")\n'
        "async def run(socket: Socket, *, user: User, session: Session) -> None:\n"
        "    user.id, user.token = 1, 'secret'\n    await session.save(user)  # here\n"
        "def Things() -> Any: return Provider()\n"
        + STARTS.replace("talk(app)", 'talk(app, "run")'),
        "nothing keeps users beyond their connections: give ResumeProvider()",
        mended={
            "return Provider()": "return ResumeProvider()",
            "class Db": "from websuckets.resuming import ResumeProvider\nclass Db",
        },
    ),
    mistake(
        "a user that is saved without a token",
        '@group.command("run")\n'
        "async def run(socket: Socket, *, user: User, session: Session) -> None:\n"
        "    user.id = 1\n    await session.save(user)  # here\n"
        "from websuckets.resuming import ResumeProvider\n"
        "def Things() -> Any: return ResumeProvider()\n"
        + STARTS.replace("talk(app)", 'talk(app, "run")'),
        "it has no id or no token",
        "set user.id and user.token before",
        mended={"user.id = 1\n": "user.id, user.token = 1, 'secret'\n"},
    ),
    mistake(
        "all users of a program that runs no app",
        "print(Session.online)  # here\n",
        "Session.online",
        "session: Session",
        mended={"print(Session.online)": "print(WebSuckets())"},
    ),
)
"""Mistakes in what protects commands."""
