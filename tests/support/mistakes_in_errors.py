"""Mistakes in the errors that commands declare."""

from typing import Final

from mistakes import Mistake

BEGIN: Final = """\
from websuckets import ClientError, CommandGroup, Socket, WebSuckets

app = WebSuckets()
group = CommandGroup("user")

class NicknameTaken(ClientError):
    details: list[str]

"""

END: Final = """\
async def create(socket: Socket) -> None: ...

app.include_command_group(group)
talk(app)
"""


def raising(
    name: str, raises: str, *says: str, classes: str = "", mended: dict[str, str]
) -> Mistake:
    """Return a mistake in what the command ``user create`` declares by ``raises=``."""
    command = f'@group.command("create", raises={raises})  # here\n'
    says = ("command 'user create'", *says)
    return Mistake(name, f"{BEGIN}{classes}{command}{END}", says, tuple(mended.items()))


ERRORS: Final = (
    raising(
        "an error in place of its class",
        '[NicknameTaken("taken")]',
        "NicknameTaken(...) is an error; write its class, NicknameTaken",
        mended={'NicknameTaken("taken")': "NicknameTaken"},
    ),
    raising(
        "an error that is not for clients",
        "[KeyError]",
        "KeyError is not a ClientError",
        "map another error to it by app.on_error",
        mended={"[KeyError]": "[NicknameTaken]"},
    ),
    raising(
        "an error without a name",
        "[ClientError]",
        "derive a class from it for each kind of error",
        mended={"[ClientError]": "[NicknameTaken]"},
    ),
    raising(
        "an error whose name stands in its constructor",
        "[TooLong]",
        "the name of TooLong is in its __init__",
        'write error = "..." in the body of the class',
        classes=(
            "class TooLong(ClientError):\n"
            '    def __init__(self): super().__init__("nickname too long")\n\n'
        ),
        mended={"    def __init__": '    error = "nickname too long"\n    def __init__'},
    ),
    raising(
        "an error with the name of one of ours",
        "[Invalid]",
        "has the name 'validation error' of an error of websuckets",
        "choose another",
        classes='class Invalid(ClientError):\n    error = "validation error"\n\n',
        mended={'"validation error"': '"invalid nickname"'},
    ),
    raising(
        "two errors with one name",
        "[NicknameTaken, Taken]",
        "NicknameTaken and Taken have one name, 'nickname taken'",
        "drop one, or give it another name",
        classes='class Taken(ClientError):\n    error = "nickname taken"\n\n',
        mended={'error = "nickname taken"': 'error = "taken"'},
    ),
    raising(
        "details without a schema",
        "[Broken]",
        "raises=[Broken]: the annotation of its details",
        "Write a type that pydantic serialises",
        classes="class Broken(ClientError):\n    details: Socket\n\n",
        mended={"details: Socket": "details: str"},
    ),
)
