"""The version of the package, and deprecations as `docs/versioning.md` promises them."""

import tomllib
import warnings
from pathlib import Path

import pytest
from typing_extensions import deprecated

import websuckets


def test_the_version_is_that_of_the_project() -> None:
    with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
        assert websuckets.__version__ == tomllib.load(file)["project"]["version"]


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'websuckets' has no attribute 'nothing'"):
        _ = websuckets.nothing  # type: ignore[attr-defined] # pyright: ignore


def test_a_deprecated_function_warns_where_it_is_called() -> None:
    @deprecated("write `new()`")
    def old() -> int:
        return 1

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert old() == 1  # type: ignore[deprecated, unused-ignore]
    (warning,) = caught
    assert warning.category is DeprecationWarning
    assert str(warning.message) == "write `new()`"
    assert warning.filename == __file__
