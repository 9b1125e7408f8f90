"""Mistakes in the signatures of handlers, and in their names."""

from typing import Final

from mistakes import Mistake

BEGIN: Final = """\
from pydantic import BaseModel
from websuckets import ClientEvent, CommandGroup, Payload, Socket, WebSuckets
from websuckets.di import provide_context
from dishka import Provider, Scope, provide
from typing import Any, TypeVar
from threading import Lock
from pydantic import Field
from websuckets.di import FromDishka
from fastapi import Depends

T = TypeVar("T")

class Post(BaseModel):
    title: str

class Db: ...

class Things(Provider):
    db = provide(Db, scope=Scope.REQUEST)

app = WebSuckets(providers=[Things()])
group = CommandGroup()

"""

INCLUDE: Final = "\napp.include_command_group(group)\ntalk(app)\n"

CREATE: Final = '@group.command("create")\n'


def signature(
    name: str, body: str, *says: str, mended: dict[str, str], place: str = "line"
) -> Mistake:
    return Mistake(name, BEGIN + body + INCLUDE, says, tuple(mended.items()), place)


def create(name: str, body: str, *says: str, mended: dict[str, str]) -> Mistake:
    """Return a mistake in the handler of the command ``create``."""
    says = ("command 'create'", *says)
    return signature(name, f"{CREATE.rstrip()}  # here\n{body}\n", *says, mended=mended)


SIGNATURES: Final = (
    create(
        "the payload stands third",
        "async def create(socket: Socket, db: Db, post: Payload[Post]) -> None: ...",
        "`post: ",
        "the payload stands second; move it there",
        mended={"db: Db, post: Payload[Post]": "post: Payload[Post], db: Db"},
    ),
    create(
        "a model stands behind a dependency",
        "async def create(socket: Socket, db: Db, post: Post) -> None: ...",
        "parameter `post: Post`",
        "the payload stands second; move it there",
        mended={"db: Db, post: Post": "post: Post, db: Db"},
    ),
    create(
        "a model stands behind a star",
        "async def create(socket: Socket, *, post: Post) -> None: ...",
        "parameter `post: Post`",
        "the payload stands second; move it there, before the `*`",
        mended={"*, post": "post"},
    ),
    create(
        "a number is not marked as the payload",
        "async def create(socket: Socket, stars: int) -> None: ...",
        "parameter `stars: int`",
        "write `stars: Payload[int]` if the client sends it",
        mended={"stars: int": "stars: Payload[int]"},
    ),
    create(
        "a dict is not marked as the payload",
        "async def create(socket: Socket, post: dict[str, Any]) -> None: ...",
        "parameter `post: dict[str, Any]`",
        "write `post: Payload[dict[str, Any]]` if the client sends it",
        mended={"post: dict[str, Any]": "post: Payload[dict[str, Any]]"},
    ),
    signature(
        "a dataclass is not marked as the payload",
        "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n"
        '@group.command("create")  # here\n'
        "async def create(socket: Socket, point: Point) -> None: ...\n",
        "command 'create'",
        "parameter `point: Point`",
        "write `point: Payload[Point]` if the client sends it",
        mended={"point: Point": "point: Payload[Point]"},
    ),
    create(
        "two payloads",
        "async def create(socket: Socket, post: Post, other: Post) -> None: ...",
        "parameter `other: Post`",
        "a command has one payload: put all that the client sends into one model",
        mended={
            "class Db: ...": "class Db: ...\n"
            "class Both(BaseModel):\n    post: Post\n    other: Post",
            "post: Post, other: Post": "both: Both",
        },
    ),
    create(
        "two marked payloads",
        "async def create(socket: Socket, one: Payload[int], two: Payload[int]) -> None: ...",
        "`two: ",
        "a command has one payload: put all that the client sends into one model",
        mended={"one: Payload[int], two: Payload[int]": "both: Payload[tuple[int, int]]"},
    ),
    create(
        "a sync handler",
        "def create(socket: Socket) -> None: ...",
        "it is not an async function; declare it with `async def`",
        mended={"def create": "async def create"},
    ),
    create(
        "a parameter without an annotation",
        "async def create(socket: Socket, post) -> None: ...",
        "parameter `post` has no annotation; write what it is: `post: SomeType`",
        mended={"post)": "post: Post)"},
    ),
    create(
        "a socket without an annotation",
        "async def create(socket) -> None: ...",
        "parameter `socket` has no annotation",
        "`socket: ServerConnection`",
        mended={"(socket)": "(socket: Socket)"},
    ),
    create(
        "no parameter at all",
        "async def create() -> None: ...",
        "it has no parameter; the first one is the socket: `socket: ServerConnection`",
        mended={"create()": "create(socket: Socket)"},
    ),
    create(
        "the payload stands first",
        "async def create(post: Post, socket: Socket) -> None: ...",
        "the first parameter, `post: ",
        "is not the socket",
        "`websuckets.Socket`",
        mended={"post: Post, socket: Socket": "socket: Socket, post: Post"},
    ),
    create(
        "variadic parameters",
        "async def create(socket: Socket, *args: Db, **kwargs: Db) -> None: ...",
        "parameter `*args: ",
        "parameter `**kwargs: ",
        "nothing can fill it; name each parameter",
        mended={"*args: Db, **kwargs: Db": "db: Db"},
    ),
    signature(
        "a decorator without functools.wraps",
        "import functools\n"
        "def logged(function: Any) -> Any:\n"
        "    async def wrapper(*args, **kwargs):  # here\n"
        "        return await function(*args, **kwargs)\n"
        "    return wrapper\n"
        '@group.command("create")\n@logged\n'
        "async def create(socket: Socket) -> None: ...\n",
        "command 'create'",
        "`@functools.wraps(function)`",
        mended={"    async def wrapper": "    @functools.wraps(function)\n    async def wrapper"},
    ),
    signature(
        "a method of a class",
        "class Posts:\n"
        '    @group.command("create")  # here\n'
        "    async def create(self, socket: Socket) -> None: ...\n",
        "parameter `self`: it is a method; register that of an object",
        mended={
            '    @group.command("create")  # here\n': "",
            "-> None: ...": '-> None: ...\ngroup.command("create")(Posts().create)',
        },
    ),
    create(
        "a marker of FastAPI",
        "async def create(socket: Socket, db: Db = Depends(Db)) -> None: ...",
        "`db: ",
        "Depends(...) is of another framework and means nothing here",
        "give a provider of it to WebSuckets(providers=[...])",
        mended={" = Depends(Db)": ""},
    ),
    create(
        "a marker of FastAPI without an annotation",
        "async def create(socket: Socket, db=Depends(Db)) -> None: ...",
        "parameter `db` has no annotation; write what it is: `db: SomeType`. Depends(...) is of "
        "another framework and means nothing here",
        "give a provider of it to WebSuckets(providers=[...])",
        mended={"db=Depends(Db)": "db: Db"},
    ),
    create(
        "pydantic's Field as the default of a dependency",
        "async def create(socket: Socket, db: Db = Field(None)) -> None: ...",
        "`db: ",
        "Field(...) is for the payload",
        mended={" = Field(None)": ""},
    ),
    create(
        "FromDishka as a default",
        "async def create(socket: Socket, db: Db = FromDishka()) -> None: ...",
        "FromDishka is not a default; annotate the parameter with FromDishka[...]",
        mended={"db: Db = FromDishka()": "db: FromDishka[Db]"},
    ),
    create(
        "a default that cannot be copied",
        "async def create(socket: Socket, locks: Payload[Any] = [Lock()]) -> None: ...",
        "its default cannot be copied",
        "make it None, and the value in the function",
        mended={"[Lock()]": "None"},
    ),
    create(
        "an import for type checkers alone",
        "async def create(socket: Socket, path: 'Path') -> None: ...",
        "parameter `path: Path`: name 'Path' is not defined",
        "define or import it where the function is defined",
        "TYPE_CHECKING",
        mended={"@group": "from pathlib import Path\n@group", "'Path'": "Payload[Path]"},
    ),
    create(
        "an annotation that is not an expression",
        "async def create(socket: Socket, path: 'a b') -> None: ...",
        "the annotation cannot be evaluated; write a type",
        "SyntaxError",
        "`path`",
        mended={"'a b'": "Payload[str]"},
    ),
    create(
        "a payload that pydantic cannot validate",
        "async def create(socket: Socket, db: Payload[Db]) -> None: ...",
        "pydantic cannot validate it",
        mended={"Payload[Db]": "Db"},
    ),
    create(
        "a type variable that nothing fills",
        "async def create(socket: Socket, item: Payload[T]) -> None: ...",
        "nothing says what the type variable `T` stands for",
        mended={"Payload[T]": "Payload[Post]"},
    ),
    create(
        "an alias of a payload",
        "async def create(socket: Socket, n: Payload[int] = Field(1, alias='m')) -> None: ...",
        "it is not a field of a model that could have an alias; drop it",
        mended={", alias='m'": ""},
    ),
    signature(
        "a command without parentheses",
        "@group.command  # here\nasync def create(socket: Socket) -> None: ...\n",
        'a command needs a name: write `@group.command("name")`',
        mended={"@group.command": '@group.command("create")'},
    ),
    signature(
        "an empty name",
        '@group.command("")  # here\nasync def create(socket: Socket) -> None: ...\n',
        "a command needs a name",
        mended={'""': '"create"'},
    ),
    signature(
        "a timeout that is not a number",
        '@group.command("create", timeout="3")  # here\n'
        "async def create(socket: Socket) -> None: ...\n",
        "timeout='3'",
        "it is a number of seconds, or None",
        mended={'"3"': "3"},
    ),
    signature(
        "a prefix that is a group",
        "group = CommandGroup(group)  # here\n",
        "the prefix is a string",
        mended={
            "CommandGroup(group)  # here": 'CommandGroup("post")\n'
            '@group.command("create")\nasync def create(socket: Socket) -> None: ...'
        },
    ),
    signature(
        "a name that stands twice",
        '@group.command("create")\nasync def create(socket: Socket) -> None: ...\n'
        '@group.command("create")  # here\nasync def create2(socket: Socket) -> None: ...\n',
        "the command 'create' stands twice",
        "rename one, or give its group a prefix",
        mended={'"create")  # here': '"create again")'},
    ),
    Mistake(
        "a group that is included twice",
        BEGIN + '@group.command("create")\nasync def create(socket: Socket) -> None: ...\n'
        "app.include_command_group(group)\napp.include_command_group(group)  # here\ntalk(app)\n",
        ("CommandGroup('', commands=1) is included twice", "include it once"),
        (("\napp.include_command_group(group)  # here", ""),),
    ),
    Mistake(
        "a function that is included",
        BEGIN + '@group.command("create")\nasync def create(socket: Socket) -> None: ...\n'
        "app.include_command_group(create)  # here\ntalk(app)\n",
        ("create", "is not a CommandGroup", "include the group"),
        (("group(create)", "group(group)"),),
    ),
    Mistake(
        "a group that is called before it is included",
        BEGIN + '@group.command("create")\nasync def create(socket: Socket) -> None: ...\n'
        "talk(app)\n",
        ("there is no command", "app.include_command_group(group)"),
        (("talk", "app.include_command_group(group)\ntalk"),),
        place=None,
    ),
    Mistake(
        "a command that a client misspells",
        BEGIN + '@group.command("create")\nasync def create(socket: Socket) -> None: ...\n'
        'app.include_command_group(group)\ntalk(app, "creat")\n',
        ("unknown command 'creat'", "'create'"),
        (('"creat"', '"create"'),),
        place=None,
    ),
)
"""Mistakes that are found when a handler is registered, or when the app starts."""
