"""Tests of what docs/versioning.md promises: a version, a public interface, and deprecation."""

import importlib
import re
import sys
import warnings
from importlib.metadata import version
from types import ModuleType
from typing import Final

import pytest
from repository import ROOT
from typing_extensions import deprecated

import websuckets

REFERENCE: Final = ROOT / "docs" / "reference"

INTERNAL: Final = {
    "websuckets.cache": {"JsonCache"},
    "websuckets.clock": {"SYSTEM_CLOCK"},
    "websuckets.history": {"PlainMessageLog", "decode_hint", "encode_hint", "in_order"},
    "websuckets.limits": {"OutboxBound", "seconds"},
    "websuckets.middleware": {"Around", "Attempt", "checked", "composed"},
    "websuckets.resuming": {"Resuming"},
    "websuckets.security": {
        "authorised_user",
        "check_still_authorised",
        "identify",
        "resumed_user",
    },
    "websuckets.socket": {"MAX_REASON", "response_headers", "sent_headers"},
    "websuckets.store": {"key_of"},
}
"""Names of public modules that are in ``__all__`` for other modules of the package alone.

``websuckets`` itself exports the names that most programs use, and documents them on its page. The
page of the module that defines such a name has it, too, where both imports are public."""


PUBLIC_WITHIN_PACKAGES: Final = {"websuckets.client.generated"}
"""Modules of packages that programs import: generated clients do."""


def reference() -> dict[str, set[str]]:
    """Return the public names of each module, as the pages of the reference list them."""
    row = re.compile(r"^(?:::: |- `)(websuckets[\w.]*)\.(\w+)\b", re.M)
    names: dict[str, set[str]] = {}
    for page in sorted(REFERENCE.glob("*.md")):
        for module, name in row.findall(page.read_text()):
            names.setdefault(module, set()).add(name)
    return names


PUBLIC: Final = reference()


def test_version_is_that_of_the_installed_package() -> None:
    assert websuckets.__version__ == version("websuckets")
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", websuckets.__version__)


def test_version_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websuckets, "__version__", "undone with what follows")
    monkeypatch.delattr(websuckets, "__version__")
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"version of {name}")
    assert websuckets.__version__ == "version of websuckets"


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    name = "nothing"
    with pytest.raises(AttributeError, match=r"module 'websuckets' has no attribute 'nothing'"):
        getattr(websuckets, name)


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_the_reference_has_all_public_names_of_a_module(module: str) -> None:
    """Expect a decision for every name: a page of the reference, or the list above."""
    named = set(importlib.import_module(module).__all__) - INTERNAL.get(module, set())
    elsewhere = set(websuckets.__all__) if module != "websuckets" else set()
    assert named - elsewhere <= PUBLIC[module] <= named


@pytest.mark.parametrize("name", websuckets.__all__)
def test_a_name_of_the_package_is_that_of_the_module_that_defines_it(name: str) -> None:
    """Expect both imports to give one object; docs/reference/ names the modules of some."""
    modules = [module for module, names in PUBLIC.items() if name in names]
    assert len({id(getattr(importlib.import_module(module), name)) for module in modules}) == 1


def test_what_most_programs_use_is_imported_from_the_package() -> None:
    both = {"Channels", "ClientError", "CurrentUser", "Session", "Token", "User"}
    assert both <= set(websuckets.__all__)
    others = set().union(*(names for module, names in PUBLIC.items() if module != "websuckets"))
    assert both <= others


def test_the_reference_has_every_module_outside_of_internal_packages() -> None:
    text = (ROOT / "docs" / "versioning.md").read_text()
    internal = set(re.findall(r"`(\w+)`", text.partition("Internal packages: ")[2].split("\n")[0]))
    packages = {path.parent.name for path in (ROOT / "websuckets").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "websuckets").glob("[!_]*.py")}
    assert internal < packages
    public = modules | (packages - internal)
    names = {"websuckets", *(f"websuckets.{name}" for name in public)}
    assert set(PUBLIC) == names | PUBLIC_WITHIN_PACKAGES


def test_everything_that_the_documentation_imports_is_public() -> None:
    imported = re.compile(r"^ *from (websuckets[\w.]*) import (\w+(?:, ?\w+)*)", re.M)
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]
    for page in pages:
        for module, names in imported.findall(page.read_text()):
            for name in re.split(r", ?", names):
                assert name in PUBLIC.get(module, ()), f"{page.name}: {module}.{name}"


@deprecated("use new() instead; old() goes with websuckets 0.4")
def old() -> str:
    """Return a result, as what goes does until then."""
    return "result"


@deprecated("use New instead; Old goes with websuckets 0.4")
class Old:
    """A class that goes."""


@deprecated("use new() instead; old_async() goes with websuckets 0.4")
async def old_async() -> str:
    """Return a result, as what goes does until then."""
    return "result"


def test_a_deprecated_name_warns_at_the_line_that_uses_it() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = sys._getframe().f_lineno + 1
        assert old() == "result"
        Old()
        old_async().close()
    assert [warning.category for warning in caught] == [DeprecationWarning] * 3
    assert [warning.filename for warning in caught] == [__file__] * 3
    assert [warning.lineno for warning in caught] == [line, line + 1, line + 2]
    assert "use new() instead" in str(caught[0].message)


def test_a_deprecated_name_warns_once_for_a_line() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            old()
    assert len(caught) == 1


def test_no_public_name_warns_when_it_is_imported() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module, names in PUBLIC.items():
            found: ModuleType = importlib.import_module(module)
            assert all(hasattr(found, name) for name in names)
