"""The shape of the house: modules import only lower floors."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "websuckets"

FLOORS = [
    {
        "backend",
        "clock",
        "closing",
        "exc",
        "failures",
        "functions",
        "hints",
        "incidents",
        "limits",
        "origins",
        "refused_json",
        "revocations",
        "socket",
        "strings",
    },
    {
        "broker",
        "conduct",
        "entrance",
        "envelope",
        "outbox",
        "results",
        "session",
        "store",
        "tasks",
        "validation",
    },
    {"channels", "hub", "resuming", "revocation_announcements", "security"},
    {
        "di",
        "di.container",
        "di.contexts",
        "di.defaults",
        "di.finalisers",
        "di.graph",
        "di.lock",
        "di.plan",
        "di.providers",
        "di.scopes",
        "di.work",
    },
    {"commands", "hooks", "middleware"},
    {"calls", "connection", "connections", "dispatcher"},
    {
        "program",
        "redis",
        "redis.announcements",
        "redis.answers",
        "redis.broker",
        "redis.foreign",
        "redis.line",
        "redis.presence",
        "redis.provider",
        "redis.scripts",
        "redis.store",
        "redis.url",
        "signals",
        "transports",
        "transports.asgi",
        "transports.checks",
        "transports.departure",
        "transports.frames",
        "transports.guard",
        "transports.guarded",
        "transports.handshake",
        "transports.listener",
        "transports.memory",
        "transports.plain",
        "transports.websockets_asyncio",
        "transports.websockets_trio",
    },
    {"blueprint", "composition", "lifecycle"},
    {"asgi"},
    {"app"},
    {"testing"},
    {""},
]
"""From the ground up; the package itself stands on top."""

# Between modules of one floor, who may import whom.
NEIGHBOURS = {
    "broker": {"session"},
    "calls": {"dispatcher"},
    "channels": {"hub", "revocation_announcements", "security"},
    "clock": {"incidents"},
    "composition": {"blueprint"},
    "connection": {"calls", "dispatcher"},
    "connections": {"connection"},
    "di": {"di.container", "di.lock", "di.providers"},
    "di.container": {"di.graph", "di.lock", "di.plan", "di.providers"},
    "di.plan": {"di.defaults"},
    "di.providers": {"di.defaults", "di.graph", "di.plan"},
    "di.scopes": {"di.contexts", "di.finalisers"},
    "di.work": {"di.finalisers", "di.scopes"},
    "exc": {"strings"},
    "functions": {"hints"},
    "lifecycle": {"blueprint"},
    "origins": {"exc"},
    "program": {"signals"},
    "redis": {"redis.provider"},
    "redis.announcements": {"redis.foreign", "redis.line", "redis.scripts"},
    "redis.broker": {"redis.announcements", "redis.foreign", "redis.line", "redis.presence"},
    "redis.line": {"redis.answers", "redis.url"},
    "redis.presence": {"redis.foreign", "redis.line"},
    "redis.provider": {"redis.broker", "redis.line", "redis.store", "redis.url"},
    "redis.store": {"redis.broker", "redis.line", "redis.scripts"},
    "results": {"envelope", "validation"},
    "resuming": {"security"},
    "socket": {"exc"},
    "store": {"session"},
    "transports": {"transports.websockets_asyncio", "transports.websockets_trio"},
    "transports.asgi": {"transports.guard", "transports.plain"},
    "transports.guarded": {
        "transports.checks",
        "transports.departure",
        "transports.guard",
        "transports.handshake",
    },
    "transports.handshake": {"transports.guard"},
    "transports.memory": {"transports.guard", "transports.plain"},
    "transports.plain": {"transports.checks", "transports.guard", "transports.handshake"},
    "transports.websockets_asyncio": {
        "transports.checks",
        "transports.frames",
        "transports.guard",
        "transports.guarded",
        "transports.handshake",
        "transports.listener",
    },
    "transports.websockets_trio": {
        "transports.checks",
        "transports.guard",
        "transports.guarded",
        "transports.handshake",
        "transports.listener",
    },
    "validation": {"envelope"},
}

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    .removesuffix("__init__")
    .strip("."): path
    for path in PACKAGE.rglob("*.py")
}


def imports(path: Path) -> set[str]:
    """The modules of the package that a module imports, wherever in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "websuckets":
                module = name.removeprefix("websuckets").strip(".")
                found.add(module if module in MODULES else module.rpartition(".")[0])
    return found


def floor(module: str) -> int:
    return next(number for number, modules in enumerate(FLOORS) if module in modules)


def test_every_module_has_a_floor() -> None:
    """One that is added is given its place."""
    assert set(MODULES) == set().union(*FLOORS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_import_lower_floors_only(module: str) -> None:
    """So connections and transports never know the app, nor injection the commands."""
    for imported in imports(MODULES[module]):
        allowed = floor(imported) < floor(module) or imported in NEIGHBOURS.get(module, set())
        assert allowed, f"{module} imports {imported}"


def test_only_transports_and_backend_know_asyncio() -> None:
    """Everything else runs on whatever backend anyio does."""
    for module, path in MODULES.items():
        if not module.startswith("transports") and module != "backend":
            assert not {"import asyncio", "from asyncio"} & {
                " ".join(line.split()[:2]) for line in path.read_text().splitlines()
            }, module
