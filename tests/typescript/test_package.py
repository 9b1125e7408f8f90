"""The npm package: its own tests, its size, and what is published of it."""

import gzip
import json
import tomllib
from pathlib import Path
from typing import Final

import pytest
from repository import ROOT
from typescript_package import PACKAGE, Package

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600), pytest.mark.on_asyncio]

MOST: Final = 6 * 1024
"""Bytes of the package without its part for React, minified and compressed."""


def test_types_of_sources_and_tests_fit(package: Package) -> None:
    package.tool("tsc")


def test_the_tests_of_the_package_pass(package: Package) -> None:
    assert "# fail 0" in package.script("--test", "--test-reporter=tap", "test/*.test.ts")


def test_the_package_is_small(package: Package) -> None:
    whole = package.folder / "whole.js"
    whole.write_text('export * from "websuckets";\nexport * from "websuckets/generated";\n')
    options = ["--bundle", "--minify", "--format=esm", "--target=es2022"]
    bundle = package.tool("esbuild", whole.name, *options)
    assert "react" not in bundle
    assert len(gzip.compress(bundle.encode(), 9, mtime=0)) <= MOST


def test_the_version_and_the_licence_are_those_of_the_python_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = json.loads((PACKAGE / "package.json").read_text())
    assert (found["version"], found["license"]) == (project["version"], project["license"])
    assert (PACKAGE / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "dependencies" not in found


def test_no_file_names_a_registry() -> None:
    assert "omit-lockfile-registry-resolved=true" in (PACKAGE / ".npmrc").read_text()
    for file in PACKAGE.rglob("*lock*"):
        assert '"resolved": "http' not in file.read_text()


def test_what_is_published_is_what_users_need(package: Package, tmp_path: Path) -> None:
    """Expect no complaint of those who check packages, and neither sources nor tests."""
    result = package.run("npm", "pack", "--json", "--pack-destination", str(tmp_path))
    assert result.returncode == 0, result.stdout
    (archive,) = tmp_path.iterdir()
    listed = package.run("tar", "-tzf", str(archive)).stdout.split()
    names = {name.removeprefix("package/") for name in listed}
    assert {"package.json", "LICENSE", "README.md", "dist/index.js", "dist/react.d.ts"} <= names
    assert {name.partition("/")[0] for name in names} == {
        *("dist", "package.json", "LICENSE", "README.md"),
    }
    package.tool("publint", "run", str(archive), "--strict")
    package.tool("attw", str(archive), "--profile", "esm-only")
