"""Generators that provide objects, and how each one learns of the error that ended its scope.

dishka sends the error, which becomes the value of the ``yield``. Whoever knows generators from
``contextlib`` or from FastAPI expects the error to be raised there, and writes ``except: rollback``
and ``else: commit`` around the ``yield``, which then commits in spite of the error. Only the
generator's source tells the two kinds apart: the error is raised at a ``yield`` whose value nothing
uses, and that stands where an error would be noticed, inside of a ``try`` or a ``with``. To any
other ``yield`` the error is sent.

Compiled code could be examined instead, without a source, but the form of compiled code changes
with each version of Python.
"""

import ast
import dis
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from tokenize import TokenError
from types import CodeType, FrameType
from typing import Any, Final, NoReturn, TypeAlias
from weakref import WeakKeyDictionary

__all__ = ["Exit", "finalise", "never_waits", "read_generators", "refuse_second_yield"]

logger: logging.Logger = logging.getLogger("websuckets")

Exit: TypeAlias = tuple[Generator[Any, Any, Any] | None, AsyncGenerator[Any, Any] | None]
"""Generator that waits at its ``yield`` for the end of a scope: one of the two items."""

WAITS: Final = frozenset({"GET_AWAITABLE", "GET_ANEXT"})
"""Instructions of Python 3.11 to 3.14 of which every ``await`` and ``async for`` has one."""


@dataclass(frozen=True, slots=True)
class _Yields:
    """Lines, by number, on which a generator function yields."""

    discarding: frozenset[int] = frozenset()
    """Lines whose ``yield`` has a value that nothing uses."""
    covered: frozenset[int] = frozenset()
    """Lines inside a ``try`` or a ``with`` that would notice an error."""


_read: Final[WeakKeyDictionary[CodeType, _Yields | None]] = WeakKeyDictionary()
"""Cache of the functions already read; ``None`` where no source could be read."""


def read_generators(sources: Iterable[Callable[..., Any]]) -> None:
    """Read the source of each generator function, and of the functions that it wraps.

    Sources are read when an app starts: a file may have changed later. A warning names functions
    without a source, in a program that was shipped without sources.
    """
    unreadable = []
    for source in sources:
        for function in _unwrapped(source):
            if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
                continue
            ours = function.__globals__.get("__name__", "").startswith("websuckets.")
            if _yields_of(function.__code__) is None and not ours:
                unreadable.append(function.__qualname__)
    if unreadable:
        logger.warning(
            "no source can be read of %s: an error that ends their scope is not raised at their "
            "`yield`, but is its value",
            ", ".join(sorted(set(unreadable))),
        )


def never_waits(source: Callable[..., Any]) -> bool:
    """Tell whether a generator function, or a method, has nothing to wait for.

    Returns false for any other callable. The compiled code is read, as nested functions and types
    may wait in the function around them, by their defaults and decorators.
    """
    function = source.__func__ if inspect.ismethod(source) else source
    if not inspect.isfunction(function):
        return False
    if not function.__code__.co_flags & inspect.CO_ASYNC_GENERATOR:
        return inspect.isgeneratorfunction(function)
    return WAITS.isdisjoint(each.opname for each in dis.get_instructions(function.__code__))


async def finalise(exit: Exit, error: BaseException | None) -> None:
    """Resume a generator at its ``yield``, with the error that ended the scope, if one did.

    Raises the errors of the generator, except that error itself, and `RuntimeError` for a generator
    that yields again.
    """
    generator: Any = exit[0]
    asynchronous: Any = exit[1]
    try:
        if error is not None:
            if await _has_ended_with(error, generator, asynchronous):
                return
        elif asynchronous is not None:
            await asynchronous.asend(None)
        else:
            generator.send(None)
    except (StopIteration, StopAsyncIteration):
        return
    await refuse_second_yield(exit)


async def refuse_second_yield(exit: Exit) -> NoReturn:
    """Close a generator that yields again when it should end, and raise `RuntimeError`."""
    generator: Any = exit[0]
    asynchronous: Any = exit[1]
    if asynchronous is not None:
        await asynchronous.aclose()
    else:
        generator.close()
    name = (asynchronous or generator).__qualname__
    raise RuntimeError(f"{name} provides one object, but yields again when its scope ends")


async def _has_ended_with(error: BaseException, generator: Any, asynchronous: Any) -> bool:
    """Resume a generator with an error, and tell whether the generator has ended."""
    is_raised = _expects_it_raised(asynchronous or generator)
    traceback = error.__traceback__
    try:
        if asynchronous is not None:
            await (asynchronous.athrow if is_raised else asynchronous.asend)(error)
        else:
            (generator.throw if is_raised else generator.send)(error)
        return False
    except (StopIteration, StopAsyncIteration):
        return True
    except BaseException as failure:
        if not _is_again(failure, error):
            raise
        return True
    finally:
        error.__traceback__ = traceback  # without the generator's frames


def _is_again(failure: BaseException, error: BaseException) -> bool:
    """Tell whether a generator raised nothing but the error that it was given, maybe in a group."""
    if isinstance(failure, BaseExceptionGroup):
        return failure.split(lambda part: part is error)[1] is None
    if isinstance(error, StopIteration | StopAsyncIteration):
        # No generator can raise these.
        return isinstance(failure, RuntimeError) and failure.__cause__ is error
    return failure is error


def _expects_it_raised(generator: Any) -> bool:
    """Tell whether the ``yield`` at which a generator waits wants an error to be raised there."""
    is_covered = False
    while True:
        code, frame = _state_of(generator)
        yields = None if code is None or frame is None else _yields_of(code)
        if yields is None or frame is None:
            return False
        is_covered = is_covered or frame.f_lineno in yields.covered
        waits_in = getattr(generator, "gi_yieldfrom", None)
        if waits_in is None:
            return is_covered and frame.f_lineno in yields.discarding
        generator = waits_in


def _state_of(generator: Any) -> tuple[CodeType | None, FrameType | None]:
    """Return the code and frame; ``None`` for a generator that Python has not compiled."""
    kind = "ag" if inspect.isasyncgen(generator) else "gi"
    return getattr(generator, f"{kind}_code", None), getattr(generator, f"{kind}_frame", None)


def _unwrapped(source: Any) -> Iterator[Any]:
    """Yield the function that makes a generator, and the functions that it wraps."""
    while source is not None:
        if not inspect.isroutine(source):
            source = type(source).__call__
        if inspect.ismethod(source):
            source = source.__func__
        yield source
        source = getattr(source, "__wrapped__", None)


def _yields_of(code: CodeType) -> _Yields | None:
    if code not in _read:
        _read[code] = _read_yields(code)
    return _read[code]


def _read_yields(code: CodeType) -> _Yields | None:
    if code.co_name == "<lambda>":  # it contains no statement that would notice an error
        return _Yields()
    try:
        lines, first = inspect.getsourcelines(code)
        # The source stays indented, because texts in the source may not be; so a line comes first.
        tree = ast.parse("".join(("if True:\n" if lines[0][0].isspace() else "\n", *lines)))
    except (OSError, SyntaxError, TokenError):
        return None
    definition = _definition(tree, code.co_name)
    if definition is None:  # the file has changed since
        return None
    visitor = _Visitor()
    visitor.visit_all(definition.body, is_covered=False)
    offset = first - 2
    return _Yields(
        frozenset(line + offset for line in visitor.discarding - visitor.used),
        frozenset(line + offset for line in visitor.covered),
    )


def _definition(tree: ast.AST, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return node if node.name == name else None
    return None


class _Visitor(ast.NodeVisitor):
    """Visitor that finds the lines on which the body of one function yields."""

    def __init__(self) -> None:
        self.discarding: set[int] = set()
        self.used: set[int] = set()
        self.covered: set[int] = set()
        self._is_covered = False

    def visit_all(self, nodes: Iterable[ast.AST], *, is_covered: bool) -> None:
        before, self._is_covered = self._is_covered, self._is_covered or is_covered
        for node in nodes:
            self.visit(node)
        self._is_covered = before

    def _visit_try(self, node: Any) -> None:
        self.visit_all(node.body, is_covered=True)
        rest = (*node.handlers, *node.orelse)
        self.visit_all(rest, is_covered=bool(node.finalbody))  # `except` does not cover these
        self.visit_all(node.finalbody, is_covered=False)

    visit_Try = visit_TryStar = _visit_try

    def _visit_with(self, node: Any) -> None:
        self.visit_all(node.items, is_covered=False)
        self.visit_all(node.body, is_covered=True)

    visit_With = visit_AsyncWith = _visit_with

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Yield):
            self._yields(node.value, self.discarding)
        else:
            self.generic_visit(node)

    def visit_Yield(self, node: ast.Yield) -> None:
        self._yields(node, self.used)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        self._yields(node, self.used)

    def _yields(self, node: ast.Yield | ast.YieldFrom, lines: set[int]) -> None:
        lines.add(node.lineno)
        if self._is_covered:
            self.covered.add(node.lineno)
        self.generic_visit(node)

    def _skip(self, node: ast.AST) -> None:
        """Skip nested functions, whose yields are their own."""

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _skip
