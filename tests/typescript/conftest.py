"""Fixtures of the tests of the TypeScript client."""

import pytest
from typescript_package import Package, built


@pytest.fixture(scope="session")
def package(pytestconfig: pytest.Config) -> Package:
    """Return a copy of the npm package, built."""
    return built(pytestconfig)
