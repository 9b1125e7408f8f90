"""Loading of an app that the command line names, as in ``main:app``."""

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

from websuckets.app import WebSuckets
from websuckets.cli.tracebacks import has_frames_of_the_program, traceback_of_the_program
from websuckets.commands.groups import CommandGroup
from websuckets.introspection.functions import own_kind
from websuckets.serving.asgi import AsgiApplication

__all__ = ["LoadError", "load"]

ATTRIBUTE: Final = "app"
"""Attribute of a module that is named without one."""

FILES: Final = ("main", "app")
"""Modules in which an app is looked for that is not named, in their order."""

MOST_NAMES: Final = 12
"""Names that an error lists, at most."""

ASGI_FRAMEWORKS: Final = {
    "fastapi.applications.FastAPI": "FastAPI",
    "starlette.applications.Starlette": "Starlette",
    "litestar.app.Litestar": "Litestar",
}
"""Classes of applications that ASGI servers serve, by module and name; none of them is imported."""

FOR_EXAMPLE: Final = "write module:attribute, as in main:app or desk.server:app"


class LoadError(Exception):
    """Error of a target that gives no app; its text is all that the user is to be told.

    For an error in the program, the text is the traceback of the program's own frames and a line
    that says during which step it was raised; ``__cause__`` is that error.
    """


def load(target: str | None, *, factory: bool = False, app_dir: Path | None = None) -> WebSuckets:
    """Return the app that ``target`` names, and make modules of ``app_dir`` importable.

    ``target`` is ``module:attribute``, where both may be dotted, or a module, whose attribute is
    ``app``. ``None`` stands for the app that ``pyproject.toml`` of the current directory names, or
    else for ``app`` in ``main.py``, in ``app.py``, and in the package of the project. With
    ``factory``, the attribute is a function without arguments that returns the app. ``app_dir``,
    the current directory if it is ``None``, stands first in ``sys.path`` from then on.

    Raises `LoadError` for a target that gives no app.
    """
    directory = _importable(app_dir)
    if target is None:
        target = _configured(pyproject := _pyproject())
        if target is None:
            return _discovered(_candidates(directory, pyproject), factory)
    module_name, attribute = _parsed(target)
    module = _imported(module_name, directory)
    return _app_of(_Found(module, attribute, _attribute(module, attribute)), factory)


@dataclass(frozen=True, slots=True)
class _Found:
    """An object that a target names: an attribute, at any depth, of a module."""

    module: ModuleType
    attribute: str
    value: Any

    @property
    def target(self) -> str:
        return f"{self.module.__name__}:{self.attribute}"


# The target -----------------------------------------------------------------------------------


def _parsed(target: str) -> tuple[str, str]:
    """Return the module and the attribute of a target."""
    module, colon, attribute = target.partition(":")
    if not colon:
        attribute = ATTRIBUTE
    if module.endswith(".py") or "/" in module or "\\" in module:
        parts = re.split(r"[/\\]", module.removesuffix(".py"))
        dotted = ".".join(part for part in parts if part not in ("", ".", ".."))
        raise LoadError(f"`{target}` names a file; write the module: {dotted}:{attribute}")
    if not _is_dotted_name(module) or not _is_dotted_name(attribute):
        raise LoadError(f"`{target}` does not name an app; {FOR_EXAMPLE}")
    return module, attribute


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


# The module -----------------------------------------------------------------------------------


def _importable(app_dir: Path | None) -> Path:
    directory = Path.cwd() if app_dir is None else app_dir.resolve()
    if not directory.is_dir():
        raise LoadError(f"the directory {directory} does not exist")
    if sys.path[:1] != [str(directory)]:
        sys.path.insert(0, str(directory))
    return directory


def _imported(name: str, directory: Path) -> ModuleType:
    with _of_the_program(f"`{name}` was imported"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if has_frames_of_the_program(error) or not f"{name}.".startswith(f"{error.name}."):
                raise  # a module that is missing to the program, not the one that is named
            missing = str(error.name)
    raise LoadError("\n".join(_not_found(name, missing, directory)))


def _not_found(name: str, missing: str, directory: Path) -> Iterator[str]:
    """Yield the lines about a module that does not exist, by its parent or by itself."""
    parent_name, _, last = missing.rpartition(".")
    parent = sys.modules.get(parent_name)
    if parent is not None and not hasattr(parent, "__path__"):
        yield f"no module `{name}`: `{parent_name}` is a module, {parent.__file__}, without others"
        yield f"  for an attribute of that module, write {parent_name}:{last}"
        return
    places = [str(directory)] if parent is None else list(parent.__path__)
    files = _modules_in(places)
    yield f"no module `{name}`"
    yield f"  {places[0]} has {_listed(files.values()) or 'no Python files'}"
    prefix = f"{parent_name}." if parent_name else ""
    for near in difflib.get_close_matches(last, files, n=1):
        yield f"  did you mean `{prefix}{near}`?"
    if parent is None:
        yield from (f"  {hint}" for hint in _elsewhere(last, directory))


def _modules_in(places: Iterable[str]) -> dict[str, str]:
    """Return modules and packages in these directories, with the names of their files."""
    found = {}
    for entry in (entry for place in places for entry in Path(place).glob("*")):
        if entry.suffix == ".py" and entry.stem != "__init__":
            found[entry.stem] = entry.name
        elif entry.name.isidentifier() and any(entry.glob("*.py")):
            found[entry.name] = f"{entry.name}/"
    return found


def _elsewhere(name: str, directory: Path) -> Iterator[str]:
    """Yield hints at directories below that have a module of this name, as ``src`` may."""
    for file in sorted([*directory.glob(f"*/{name}.py"), *directory.glob(f"*/{name}/__init__.py")]):
        below = file.relative_to(directory)
        yield f"{below} exists: add --app-dir {below.parts[0]}"


@contextmanager
def _of_the_program(step: str) -> Iterator[None]:
    """Return a context that turns an error of the program into a `LoadError`.

    `SystemExit` is such an error, too: a program that ends on its import has not been loaded, and
    its exit status would be taken for ours.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise LoadError(
            f"{traceback_of_the_program(error)}\n\nyour program raised this error while {step}"
        ) from error


# The attribute --------------------------------------------------------------------------------


def _attribute(module: ModuleType, attribute: str) -> Any:
    value: Any = module
    for name in attribute.split("."):
        with _of_the_program(f"`{module.__name__}:{attribute}` was read"):
            try:
                value = getattr(value, name)
                continue
            except AttributeError as error:
                if has_frames_of_the_program(error):
                    raise
        owner = f"`{module.__name__}`" if value is module else f"a {type(value).__qualname__}"
        hints = [*_hints(module), *_near(name, value)]
        raise LoadError(_with_hints(f"{owner} has no attribute `{name}`", hints))
    return value


def _near(name: str, value: Any) -> Iterator[str]:
    public = [known for known in dir(value) if not known.startswith("_")]
    for near in difflib.get_close_matches(name, public, n=1):
        yield f"did you mean `{near}`?"


def _app_of(found: _Found, factory: bool) -> WebSuckets:
    """Return the app that is found, or that the factory makes which is found."""
    if not factory:
        if isinstance(found.value, WebSuckets):
            return found.value
        _refuse(found, _misfit(found))
    if isinstance(found.value, WebSuckets):
        _refuse(found, "is an app already: leave --factory out")
    if not callable(found.value):
        _refuse(found, f"cannot be called: it is {_described(found.value)}")
    if needed := _needed_arguments(found.value):
        _refuse(found, f"needs arguments ({', '.join(needed)}); a factory has none")
    if own_kind(found.value) is not None:
        _refuse(found, _ASYNC)
    with _of_the_program(f"`{found.target}` was called"):
        made = found.value()
    if not isinstance(made, WebSuckets):
        if inspect.iscoroutine(made):
            made.close()  # or Python warns that nothing has awaited the coroutine
        _refuse(found, f"returned {_described(made)} instead of a WebSuckets app")
    return made


_ASYNC: Final = (
    "is an async function: it is not an app, and cannot make one, because an event loop does not "
    "run yet; make the app in a function that is not async, and await in providers and hooks"
)


def _refuse(found: _Found, why: str) -> NoReturn:
    raise LoadError(_with_hints(f"`{found.target}` {why}", _hints(found.module)))


def _misfit(found: _Found) -> str:
    """Return the reason why an object that is not an app cannot be served as one."""
    value = found.value
    if isinstance(value, CommandGroup):
        return (
            "is a CommandGroup, not an app; include it in one, app.include_command_group(...), and "
            "name the app"
        )
    if isinstance(value, AsgiApplication):
        return "is the ASGI side of an app; name the app itself, without `.asgi`"
    if (framework := _framework_of(value)) is not None:
        return (
            f"is a {framework} application, not a WebSuckets app: it is served by an ASGI server, "
            f"`uvicorn {found.target}`"
        )
    if inspect.isroutine(value):
        if own_kind(value) is not None:
            return _ASYNC
        return "is a function; if it returns the app, add --factory"
    return f"is {_described(value)}, not a WebSuckets app"


def _framework_of(value: Any) -> str | None:
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(value).__mro__)
    return next((ASGI_FRAMEWORKS[name] for name in names if name in ASGI_FRAMEWORKS), None)


def _described(value: Any) -> str:
    if value is None:
        return "None"
    if inspect.ismodule(value):
        return "a module"
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    return f"an object of type {type(value).__qualname__}"


def _needed_arguments(function: Callable[..., Any]) -> list[str]:
    """Return the parameters without defaults, as far as the function shows its parameters."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError, NameError):  # as from Python 3.14 on, of an annotation
        return []
    return [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


# Hints ----------------------------------------------------------------------------------------


def _with_hints(problem: str, hints: Iterable[str]) -> str:
    return "\n  ".join([problem, *hints])


def _hints(module: ModuleType) -> Iterator[str]:
    """Yield the hints at the file of a module, and at all in it that could have been meant."""
    name = module.__name__
    yield f"`{name}` is {getattr(module, '__file__', None) or 'a module without a file'}"
    names = vars(module).items()
    if apps := [key for key, value in names if issubclass(type(value), WebSuckets)]:
        yield f"apps there: {_listed(f'{name}:{app}' for app in apps)}"
    if makers := [key for key, value in names if _may_make_an_app(value, module)]:
        made = _listed(f"{name}:{maker}" for maker in makers)
        yield f"functions there that may return an app, with --factory: {made}"


def _may_make_an_app(value: Any, module: ModuleType) -> bool:
    if not inspect.isfunction(value) or value.__module__ != module.__name__:
        return False
    if own_kind(value) is not None or _needed_arguments(value):
        return False
    annotations: dict[str, Any] = {}
    with suppress(NameError):  # from Python 3.14 on, they are evaluated here
        annotations = value.__annotations__
    if "return" not in annotations:
        return "app" in value.__name__
    result = annotations["return"]
    return result is WebSuckets or str(result).rpartition(".")[2] == "WebSuckets"


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = [f"and {len(ordered) - MOST_NAMES} more"] if len(ordered) > MOST_NAMES else []
    return ", ".join([*ordered[:MOST_NAMES], *more])


# Without a target -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pyproject:
    """The parts of ``pyproject.toml`` that say where the app is."""

    text: str
    """Description of the file, or of its absence, for errors."""
    app: Any = None
    package: str | None = None


def _pyproject() -> _Pyproject:
    file = Path.cwd() / "pyproject.toml"
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return _Pyproject("it is not there")
    except (OSError, ValueError) as error:
        raise LoadError(f"{file} cannot be read: {error}") from None
    name = _table(_table(content, "project"), "name")
    package = re.sub(r"[-_.]+", "_", name).lower() if isinstance(name, str) else None
    settings = _table(_table(content, "tool"), "websuckets")
    return _Pyproject("it has no [tool.websuckets] app", _table(settings, "app"), package)


def _table(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, dict) else None


def _configured(pyproject: _Pyproject) -> str | None:
    if pyproject.app is None or isinstance(pyproject.app, str):
        return pyproject.app
    raise LoadError(f"pyproject.toml: [tool.websuckets] app = {pyproject.app!r}: {FOR_EXAMPLE}")


def _candidates(directory: Path, pyproject: _Pyproject) -> Iterator[str | ModuleType]:
    """Yield modules in which the app may be, and lines about those that are not there."""
    yield f"pyproject.toml: {pyproject.text}"
    for name in FILES:
        if (directory / f"{name}.py").is_file():
            yield _imported(name, directory)
        else:
            yield f"{name}.py: it is not there"
    package = pyproject.package
    if package is None:
        return
    if importlib.util.find_spec(package) is None:
        hints = "; ".join(_elsewhere(package, directory))
        yield f"{package}, the package of the project: {hints or 'it is not there'}"
        return
    module = _imported(package, directory)
    yield module
    submodules = _modules_in(getattr(module, "__path__", ()))
    for name in FILES:
        if name in submodules:
            yield _imported(f"{package}.{name}", directory)
        else:
            yield f"{package}.{name}: it is not there"


def _discovered(candidates: Iterable[str | ModuleType], factory: bool) -> WebSuckets:
    looked = ["no app is named, and none was found in"]
    for candidate in candidates:
        if isinstance(candidate, str):
            looked.append(f"  {candidate}")
            continue
        value = getattr(candidate, ATTRIBUTE, None)
        found = _Found(candidate, ATTRIBUTE, value)
        if isinstance(value, WebSuckets) or (factory and callable(value)):
            return _app_of(found, factory)
        if value is None or inspect.ismodule(value):  # a submodule of that name
            problem = f"`{candidate.__name__}` has no `{ATTRIBUTE}`"
        else:
            problem = f"`{found.target}` {_misfit(found)}"
        looked.append("\n    ".join([f"  {problem}", *_hints(candidate)]))
    raise LoadError("\n".join([*looked, f"name the app: {FOR_EXAMPLE}"]))
