"""Cache of values that take long to get, for some time; all nodes of an app may share it."""

import logging
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

from websuckets.introspection.functions import evaluated, kind_of, target_of, where
from websuckets.introspection.hints import name_of
from websuckets.introspection.strings import plain_string
from websuckets.runtime.computations import Computations

__all__ = ["Cache", "JsonCache", "MemoryCache"]

logger: logging.Logger = logging.getLogger("websuckets")

Value = TypeVar("Value")

ENTRIES: Final = 10_000
"""Entries that a `MemoryCache` keeps at most: some megabytes of values of usual size."""

LONGEST_KEY: Final = 512
"""Bytes of a key in UTF-8, at most."""

SHORTEST, LONGEST = 0.001, 10**9
"""Seconds for which a value may be kept, at least and at most; Redis counts milliseconds."""

TYPES: Final = 256
"""Types whose readers and writers are kept, in all caches: those that were used last."""

NULL: Final = b"null"
MISSING: Final = object()


class Cache(Protocol):
    """A cache of values by key, each for some time (APP scope).

    An app uses the cache that its container provides, and a `MemoryCache` where the program
    provides none. A value is kept as JSON, written and read by pydantic, so nobody shares an object
    with the cache. A value that cannot be read as the type that is asked for is a miss: it is
    counted and logged, and is never an error.

    Keys have from 1 to 512 bytes in UTF-8. ``seconds`` are from 0.001 to 1,000,000,000. Each method
    raises `ValueError` for other ones, and `TypeError` for a key that is not a ``str``.
    """

    @overload
    async def get(self, key: str, type: type[Value]) -> Value | None: ...
    @overload
    async def get(self, key: str, type: Any) -> Any: ...
    async def get(self, key: str, type: Any) -> Any:
        """Return the value of the key, as ``type``; ``None`` if there is none.

        A value that is ``None`` cannot be told from a miss here.
        """
        ...

    async def set(self, key: str, value: object, seconds: float, *, type: Any = None) -> None:
        """Keep ``value`` by the key for ``seconds``, in place of any other.

        The value is written as its ``type`` says: the class of the value, unless given. A result
        that `get_or_set` computes at this moment is not kept. Raises `ValueError`, which quotes
        nothing of the value, for a value without a JSON form that this type reads again.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove the value of the key, if there is one.

        A result that `get_or_set` computes at this moment is not kept, on any node; who asks from
        now on, on this node, does not get that result.
        """
        ...

    async def get_or_set(
        self,
        key: str,
        factory: Callable[[], Awaitable[Value]],
        seconds: float,
        *,
        type: Any = None,
    ) -> Value:
        """Return the value of the key, or else the result of ``factory``, kept for ``seconds``.

        The factory is called without arguments, in a task of its own with the context variables of
        its caller. It runs once for all who ask for the key at the same time, and never outlives
        the call that it was given to; so it may use objects of its caller's scope. Its error
        reaches those who wait on this node; those who wait on other nodes try themselves. A caller
        that is cancelled stays for others who wait for its factory, for three seconds at most: then
        one of these begins anew.

        ``type`` is the type of the value: the return annotation of the factory, unless given.
        ``None`` is a value like any other where the type admits it.

        Raises `TypeError` where neither tells the type, and `ValueError` for a result that is not
        of the type, or has no JSON form that the type reads again.
        """
        ...


class JsonCache(Cache):
    """A cache whose implementation keeps only JSON by key; base of the caches of the package."""

    def __init__(self) -> None:
        self.misfits: int = 0
        """Number of values that could not be read as the type that was asked for."""
        self._computations: Computations[bytes] = Computations()

    @overload
    async def get(self, key: str, type: type[Value]) -> Value | None: ...
    @overload
    async def get(self, key: str, type: Any) -> Any: ...
    async def get(self, key: str, type: Any) -> Any:
        key = _checked_key(key)
        value_type = _type_of(type)
        text = await self._load(key)
        if text is None or text == NULL:
            return None
        value = self._read(value_type, text)
        return None if value is MISSING else value

    async def set(self, key: str, value: object, seconds: float, *, type: Any = None) -> None:
        key, seconds = _checked_key(key), _checked_seconds(seconds)
        text = _type_of(value.__class__ if type is None else type).write(value)
        self._computations.forget(key)
        await self._save(key, text, seconds)

    async def delete(self, key: str) -> None:
        key = _checked_key(key)
        self._computations.forget(key)
        await self._remove(key)

    async def get_or_set(
        self,
        key: str,
        factory: Callable[[], Awaitable[Value]],
        seconds: float,
        *,
        type: Any = None,
    ) -> Value:
        key, seconds = _checked_key(key), _checked_seconds(seconds)
        value_type = _type_of(_result_type(factory) if type is None else type)

        def fits(text: bytes) -> bool:
            return self._read(value_type, text) is not MISSING

        async def computed() -> bytes:
            return value_type.write(await factory())

        async def kept() -> bytes:
            return await self._compute(key, computed, seconds, fits)

        text = await self._load(key)
        while True:
            value: Any = MISSING if text is None else self._read(value_type, text)
            if value is not MISSING:
                return value  # type: ignore[no-any-return]  # a Value
            # Another caller may wait for a value of another type: then the next turn is ours.
            text = await self._computations.result(key, kept)

    def _read(self, value_type: "_Type", text: bytes) -> Any:
        """Return the value in a text, or ``MISSING``."""
        try:
            return value_type.read(text)
        except Exception:  # also of validators of the program
            self._found_misfit(value_type.name)
            return MISSING

    def _found_misfit(self, name: str) -> None:
        """Count a value that is not of the type of this name; log it at each power of two."""
        self.misfits += 1
        if self.misfits & (self.misfits - 1) == 0:
            # Neither the key nor the value, which may be secrets.
            logger.warning("a value in the cache is not a %.80s: a miss (%d)", name, self.misfits)

    @abstractmethod
    async def _load(self, key: str) -> bytes | None:
        """Return the text that is kept for the key."""

    @abstractmethod
    async def _save(self, key: str, text: bytes, seconds: float) -> None:
        """Keep a text, in place of any other, and of the result that is being computed."""

    @abstractmethod
    async def _remove(self, key: str) -> None:
        """Remove the text, and do not keep the result that is being computed."""

    @abstractmethod
    async def _compute(
        self,
        key: str,
        compute: Callable[[], Awaitable[bytes]],
        seconds: float,
        fits: Callable[[bytes], bool],
    ) -> bytes:
        """Return the result of ``compute``, and keep it unless `_save` or `_remove` was called.

        A text that ``fits``, and is there by now, may be returned instead.
        """


class MemoryCache(JsonCache):
    """A cache in this process; apps that run in one event loop may share it.

    At most ``entries`` values are kept: one more replaces the value that was not used for longest.
    Values end by the monotonic clock.

    Raises `ValueError` for a number of entries that is not positive.
    """

    def __init__(self, entries: int = ENTRIES) -> None:
        if not (isinstance(entries, int) and entries >= 1):
            raise ValueError(f"MemoryCache({entries=}): it is an int, at least 1")
        super().__init__()
        self._most = entries
        # By key, with their ends; the least recently used first.
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._leases: dict[str, object] = {}  # of keys whose values are computed

    async def _load(self, key: str) -> bytes | None:
        text, end = self._kept.get(key, (None, 0.0))
        if text is None:
            return None
        if end <= time.monotonic():
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return text

    async def _save(self, key: str, text: bytes, seconds: float) -> None:
        self._leases.pop(key, None)
        self._put(key, text, seconds)

    async def _remove(self, key: str) -> None:
        self._leases.pop(key, None)
        self._kept.pop(key, None)

    async def _compute(
        self,
        key: str,
        compute: Callable[[], Awaitable[bytes]],
        seconds: float,
        fits: Callable[[bytes], bool],
    ) -> bytes:
        lease = self._leases[key] = object()
        try:
            text = await compute()
            if self._leases.get(key) is lease:
                self._put(key, text, seconds)
            return text
        finally:
            if self._leases.get(key) is lease:
                del self._leases[key]

    def _put(self, key: str, text: bytes, seconds: float) -> None:
        self._kept[key] = (text, time.monotonic() + seconds)
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def __repr__(self) -> str:
        return f"MemoryCache({len(self._kept)} of {self._most})"


class _Type:
    """A type of values, with the reader and the writer of pydantic."""

    def __init__(self, hint: Any) -> None:
        self.name = name_of(hint)
        self._adapter: TypeAdapter[Any] = TypeAdapter(hint)
        if not self._adapter.pydantic_complete:
            self._adapter.rebuild()

    def read(self, text: bytes) -> Any:
        """Return the value in a text; raise any error for a text that has none of this type."""
        return self._adapter.validate_json(text)

    def write(self, value: Any) -> bytes:
        """Return the value as JSON that `read` reads.

        Raises `ValueError`, which quotes nothing of the value.
        """
        try:
            text = self._adapter.dump_json(value, round_trip=True, by_alias=True, warnings="error")
            self.read(text)
            return text
        except Exception as error:
            reason = type(error).__name__
            if isinstance(error, ValidationError):
                reason = error.errors(include_url=False, include_input=False)[0]["type"]
        raise ValueError(
            f"the value for the cache is not a {self.name:.80}, or this type cannot read the JSON "
            f"that it writes ({reason})"
        )


def _type_of(hint: Any) -> _Type:
    """Return the type of values that a hint means; raise pydantic's own errors."""
    try:
        hash(hint)
    except TypeError:  # of metadata that is not hashable
        return _Type(hint)
    # Hints are equal though the order of a union's members differs, which matters to pydantic.
    return _kept_type(hint, repr(hint))


@lru_cache(maxsize=TYPES)
def _kept_type(hint: Any, text: str) -> _Type:
    return _Type(hint)


def _result_type(factory: Callable[[], Awaitable[Any]]) -> Any:
    """Return the type in the return annotation of an async function; raise `TypeError`."""
    annotations = getattr(target_of(factory), "__annotations__", {})
    if kind_of(factory) == "async" and "return" in annotations:
        try:
            return evaluated({"return": annotations["return"]}, factory)["return"]
        except NameError:
            pass
    raise TypeError(
        f"get_or_set({where(factory)}): which type has the value? Annotate the result of this "
        "async function, or write get_or_set(..., type=...)"
    )


def _checked_key(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the key of a cache is a str, not {type(key).__name__}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= LONGEST_KEY:
        raise ValueError(f"the key of a cache has from 1 to {LONGEST_KEY} bytes in UTF-8")
    return plain_string(key)


def _checked_seconds(seconds: float) -> float:
    if not (isinstance(seconds, int | float) and SHORTEST <= seconds <= LONGEST):
        raise ValueError(f"{seconds=}: a number from {SHORTEST} to {LONGEST}")
    return seconds
