"""Payloads that clients receive, validated by pydantic where the program says their types."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from websuckets.client.errors import UnexpectedReply

__all__ = ["Reader", "reader"]

Reader = Callable[[str, Any], Any]
"""Function of the name of an event, and of its payload as parsed JSON; returns the value."""


def reader(hint: Any) -> Reader:
    """Return a function that validates payloads by a type or a ``TypeAdapter``.

    For ``None`` and ``Any`` the function returns payloads as they are. It raises `UnexpectedReply`
    for those that do not fit. An error of pydantic is raised for a hint that is not a type.
    """
    if hint is None or hint is Any:
        return _as_it_is
    adapter: TypeAdapter[Any] = hint if isinstance(hint, TypeAdapter) else _adapter(hint)

    def read(event: str, payload: Any) -> Any:
        try:
            return adapter.validate_json(to_json(payload))  # as JSON, also for strict models
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
        problems = [{"loc": list(p["loc"]), "msg": p["msg"], "type": p["type"]} for p in found]
        places = ", ".join(".".join(map(str, p["loc"])) or "the whole" for p in problems[:3])
        raise UnexpectedReply(
            event, f"has a payload that does not fit its type, at {places}", problems
        )

    return read


def _as_it_is(event: str, payload: Any) -> Any:
    return payload


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return _cached_adapter(hint)
    except TypeError:  # a hint that cannot be hashed
        return TypeAdapter(hint)


@lru_cache(maxsize=256)
def _cached_adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)
