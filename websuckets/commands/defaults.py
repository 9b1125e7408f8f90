"""Defaults of parameters: values, pydantic's ``Field``, and markers of other frameworks."""

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any, Final, Self

from dishka import FromDishka
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from websuckets.introspection.hints import FromComponentMarker

__all__ = ["Default", "field_of", "misfit_of", "remedy_for_marker"]

_CONTAINERS: Final = (list, dict, set, bytearray, deque)

_MARKER_MODULES: Final = (
    "dependency_injector.wiring",
    "fast_depends",
    "fastapi.params",
    "litestar.di",
    "litestar.params",
    "taskiq_dependencies",
)
"""Modules of the objects that other frameworks read from defaults and from ``Annotated``."""


@dataclass(frozen=True, slots=True)
class Default:
    """Default value of a parameter whose argument is absent."""

    make: Callable[[], Any]
    """Function that returns the value, as a new copy if mutable: no message sees another's."""

    @classmethod
    def of(cls, value: Any, *, is_payload: bool = False) -> Self:
        """Return the default that is this value, or a copy of a value that could be changed.

        Containers, whatever they hold, models, and dataclasses that stand for a payload are copied;
        any other object may be meant to be shared. Raises the errors of copying.
        """
        if not _may_change(value, is_payload):
            return cls(lambda: value)
        copy.deepcopy(value)
        return cls(lambda: copy.deepcopy(value))

    @classmethod
    def of_field(cls, field: FieldInfo) -> Self | None:
        """Return the default that pydantic's ``Field`` names, if there is one."""
        if field.default_factory is not None:
            return cls(lambda: field.get_default(call_default_factory=True, validated_data={}))
        if field.default is PydanticUndefined:
            return None
        return cls.of(field.default, is_payload=True)


def field_of(default: Any) -> FieldInfo | None:
    """Return the default itself if it is pydantic's ``Field``."""
    return default if type(default) is FieldInfo else None


def remedy_for_marker(value: Any) -> str | None:
    """Return the remedy for a marker that only another framework understands.

    Return ``None`` for any other value. Markers are recognised by the names of their classes and
    modules, so that no framework is imported.
    """
    kind = type(value)
    is_marker = kind.__name__ == "Depends" or any(
        kind.__module__ == module or kind.__module__.startswith(f"{module}.")
        for module in _MARKER_MODULES
    )
    if not is_marker:
        return None
    return (
        f"{kind.__name__}(...) is of another framework and means nothing here; a dependency is "
        "found by its type: give a provider of it to WebSuckets(providers=[...]), as "
        "dishka's `provide(function)`; what the client sends is written Payload[...]"
    )


def misfit_of(default: Any, *, is_payload: bool = False) -> str | None:
    """Return the reason why a parameter cannot have this default; ``None`` if it can."""
    if isinstance(default, FromComponentMarker | FromDishka):
        return "FromDishka is not a default; annotate the parameter with FromDishka[...]"
    if field_of(default) is not None:
        if is_payload:
            return None
        return (
            "Field(...) is for the payload, which stands second and is written Payload[...]; this "
            "parameter is a dependency"
        )
    try:
        Default.of(default, is_payload=is_payload)
    except Exception as error:
        return (
            f"its default cannot be copied ({error!r}), and would be shared by all messages; "
            "make it None, and the value in the function"
        )
    return None


def _may_change(value: Any, is_payload: bool) -> bool:
    if isinstance(value, tuple):
        return any(_may_change(item, is_payload) for item in value)
    if isinstance(value, (*_CONTAINERS, BaseModel)):
        return True
    return is_payload and is_dataclass(value) and not isinstance(value, type)
