"""Names of type hints in the texts of errors."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NewType, Optional, TypeVar, Union

import pytest

from websuckets import OnCommit
from websuckets.di import ScopeFactory
from websuckets.introspection.hints import name_of

T = TypeVar("T")


class Db: ...


Number = NewType("Number", int)


@pytest.mark.parametrize(
    "hint, name",
    [
        (Db, "Db"),
        (Number, "Number"),
        (Any, "Any"),
        (len, "len"),
        (Annotated[Db, "metadata"], "Db"),
        (ScopeFactory[Db], "ScopeFactory[Db]"),
        (ScopeFactory[tuple[Db, OnCommit]], "ScopeFactory[tuple[Db, OnCommit]]"),
        (list[Annotated[Db, "metadata"]], "list[Db]"),
        (tuple[Db, ...], "tuple[Db, ...]"),
        (Db | None, "Db | None"),
        (Optional[Db], "Db | None"),  # noqa: UP045
        (Union[Db, "Later"], "Db | Later"),  # noqa: F821
        (Literal["a", 1], "Literal['a', 1]"),
        (Callable[[Db, Number], None], "Callable[[Db, Number], None]"),
        (Callable[..., Db], "Callable[..., Db]"),
        (dict[str, list[T]], "dict[str, list[T]]"),
    ],
    ids=str,
)
def test_a_hint_is_named_as_it_is_written(hint: Any, name: str) -> None:
    assert name_of(hint) == name
