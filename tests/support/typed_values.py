"""Types that programs use, and values of each, for hypothesis."""

import dataclasses
import enum
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from inspect import signature
from itertools import count
from types import NoneType
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, NotRequired, TypeVar, Union
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, computed_field, create_model
from typing_extensions import TypeAliasType, TypedDict

__all__ = ["Typed", "typed"]

T = TypeVar("T")

CAN_EXCLUDE: Final = "exclude_if" in signature(Field).parameters
"""True for a version of pydantic that can leave fields out by their values, from 2.12 on."""

UNLESS_ZERO: Final[Any] = {"exclude_if": lambda value: value == 0} if CAN_EXCLUDE else {}
"""Arguments of a field that is not sent where it is 0."""


@dataclasses.dataclass(frozen=True)
class Typed:
    """A type, and a strategy for its values."""

    hint: Any
    values: st.SearchStrategy[Any]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(str, enum.Enum):  # noqa: UP042  # as programs for Python 3.10 have it
    CLASS = "class"


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: T | None = None


class Box(RootModel[T], Generic[T]): ...


class Tree(BaseModel):
    """A model that has itself within."""

    name: str = Field("", description="Name of the tree.")
    color: Color = Field(Color.RED, description="A reference with a description.")
    children: list["Tree"] = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    friends: "list[Annotated[Cat | Dog, Field(discriminator='kind')]]" = []


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    class_: int = Field(alias="class")
    price: Decimal = Decimal("1.5")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.class_


class Sparse(BaseModel):
    """A model some of whose fields are not sent."""

    zero: int = Field(0, **UNLESS_ZERO)
    hidden: int = Field(1, exclude=True)
    number: int = 2


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Options(TypedDict):
    a: int
    b: NotRequired[list[str]]


@dataclasses.dataclass
class Account:
    login: str
    points: "list[Point]" = dataclasses.field(default_factory=list)


Json = TypeAliasType("Json", "int | str | list[Json] | dict[str, Json]")  # type: ignore[misc]
Alias = TypeAliasType("Alias", "tuple[int, str] | None")
Pair = TypeAliasType("Pair", tuple[T, T], type_params=(T,))
Positive = Annotated[int, Field(gt=0, description="A number above 0.")]

integers = st.integers(-(2**70), 2**70)
floats = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=5)
times = st.times(timezones=st.none() | st.just(UTC))
moments = st.datetimes(timezones=st.none() | st.just(UTC))
cats = st.builds(Cat, lives=integers)
dogs = st.recursive(
    st.builds(Dog),
    lambda dog: st.builds(Dog, friends=st.lists(cats | dog, max_size=2)),
    max_leaves=3,
)
trees = st.recursive(
    st.builds(Tree, name=texts, color=st.sampled_from(Color)),
    lambda tree: st.builds(Tree, name=texts, children=st.lists(tree, max_size=2)),
    max_leaves=3,
)
points = st.builds(Point, integers, floats)
json_values = st.recursive(
    integers | texts,
    lambda some: st.lists(some, max_size=2) | st.dictionaries(texts, some, max_size=2),
    max_leaves=4,
)

SIMPLE = [
    Typed(int, integers),
    Typed(str, texts),
    Typed(bool, st.booleans()),
    Typed(float, floats),
    Typed(None, st.none()),
    Typed(Decimal, decimals),
    Typed(UUID, st.uuids()),
    Typed(date, st.dates()),
    Typed(datetime, moments),
    Typed(time, times),
    Typed(timedelta, st.timedeltas(timedelta(-9000), timedelta(9000))),
    Typed(Positive, st.integers(1, 2**53)),
    Typed(Color, st.sampled_from(Color)),
    Typed(Level, st.sampled_from(Level)),
    Typed(Word, st.just(Word.CLASS)),
    Typed(Literal["a b", 3, True], st.sampled_from(["a b", 3, True])),
    Typed(Tree, trees),
    Typed(Annotated[Cat | Dog, Field(discriminator="kind")], cats | dogs),
    Typed(Aliased, st.builds(Aliased, class_=integers, price=decimals)),
    Typed(Sparse, st.builds(Sparse, zero=st.integers(0, 1), number=integers)),
    Typed(Point, points),
    Typed(
        Options,
        st.fixed_dictionaries({"a": integers}, optional={"b": st.lists(texts, max_size=2)}),
    ),
    Typed(Account, st.builds(Account, texts, st.lists(points, max_size=2))),
    Typed(Json, json_values),
    Typed(Alias, st.none() | st.tuples(integers, texts)),
    Typed(Any, json_values),
]
"""Types without others, and some of which others are made."""

KEYS = [Typed(str, texts), Typed(int, integers), Typed(Color, st.sampled_from(Color))]
HASHABLE = [
    Typed(int, integers),
    Typed(str, texts),
    Typed(UUID, st.uuids()),
    Typed(Word, st.just(Word.CLASS)),
]


def typed() -> st.SearchStrategy[Typed]:
    """Return a strategy for types, with their values."""
    return st.recursive(st.sampled_from(SIMPLE), _around, max_leaves=4)


def _around(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        inner.map(lambda t: Typed(list[t.hint], st.lists(t.values, max_size=3))),
        inner.map(lambda t: _union((t, SIMPLE[4]))),
        inner.map(lambda t: Typed(tuple[t.hint, ...], st.lists(t.values, max_size=3).map(tuple))),
        inner.map(lambda t: Typed(Pair[t.hint], st.tuples(t.values, t.values))),
        inner.map(
            lambda t: Typed(
                Page[t.hint],
                _built(
                    Page[t.hint], items=st.lists(t.values, max_size=2), next=st.none() | t.values
                ),
            )
        ),
        inner.map(lambda t: Typed(Box[t.hint], _built(Box[t.hint], root=t.values))),
        st.sampled_from(HASHABLE).map(lambda t: Typed(set[t.hint], st.sets(t.values, max_size=3))),
        st.tuples(inner, inner).map(_union),
        st.tuples(inner, inner).map(
            lambda both: Typed(
                tuple[both[0].hint, both[1].hint], st.tuples(both[0].values, both[1].values)
            )
        ),
        st.tuples(st.sampled_from(KEYS), inner).map(
            lambda both: Typed(
                dict[both[0].hint, both[1].hint],
                st.dictionaries(both[0].values, both[1].values, max_size=3),
            )
        ),
        st.lists(inner.flatmap(_field), min_size=1, max_size=3).map(_model),
        st.lists(inner.flatmap(_field), min_size=1, max_size=3).map(_dataclass),
    )


def _union(both: tuple[Typed, Typed]) -> Typed:
    one, another = both
    hint: Any = Union[one.hint, another.hint]  # noqa: UP007  # two of None cannot be joined by |
    return Typed(hint, one.values | another.values)


def _built(cls: Any, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for objects of a model, made without validation of their values."""
    return st.fixed_dictionaries(fields).map(lambda values: cls.model_construct(**values))


_numbers: Iterator[int] = count()


def _field(of: Typed) -> "st.SearchStrategy[tuple[Typed, dict[str, Any]]]":
    """Return a strategy for a field with its default, by the name of an argument, or without."""
    return st.just((of, {})) | of.values.map(
        lambda default: (of, {"default_factory": lambda: default})
    )


def _values(fields: list[tuple[Typed, dict[str, Any]]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for the values of fields; those with a default may be missing."""
    needed, optional = (
        {
            f"field_{n}": of.values
            for n, (of, default) in enumerate(fields)
            if bool(default) is has_default
        }
        for has_default in (False, True)
    )
    return st.fixed_dictionaries(needed, optional=optional)


def _model(fields: list[tuple[Typed, dict[str, Any]]]) -> Typed:
    """Return a model; most models have a name that another one has, too."""
    names = [f"field {n}" if n else "field_0" for n in range(len(fields))]
    definitions: Any = {  # for pydantic before 2.11 a hint that is None is none at all
        f"field_{n}": (NoneType if of.hint is None else of.hint, Field(alias=names[n], **default))
        for n, (of, default) in enumerate(fields)
    }
    made: Any = create_model("Made", **definitions)
    return Typed(made, _values(fields).map(lambda given: made.model_construct(**given)))


def _dataclass(fields: list[tuple[Typed, dict[str, Any]]]) -> Typed:
    """Return a dataclass with these fields."""
    made = dataclasses.make_dataclass(
        "MadeData",
        [
            (f"field_{n}", of.hint, dataclasses.field(**default))
            for n, (of, default) in enumerate(fields)
        ],
        kw_only=True,
    )
    return Typed(made, _values(fields).map(lambda given: made(**given)))
