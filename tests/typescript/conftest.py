"""Fixtures of the tests of the TypeScript client."""

from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from board_process import BoardProcess
from typescript_package import Package, built


@pytest.fixture(scope="session")
def package(pytestconfig: pytest.Config) -> Package:
    """Return a copy of the npm package, built."""
    return built(pytestconfig)


@pytest.fixture(scope="session")
def chromium_address() -> Iterator[str]:
    """Yield the address of a Chromium for all tests of a worker."""
    binary = chromium.find_binary()
    if binary is None:
        pytest.skip("no Chromium is installed")
    with chromium.running(binary) as address:
        yield address


@pytest.fixture
def board(tmp_path: Path) -> Iterator[BoardProcess]:
    """Yield a server of boards that runs."""
    process = BoardProcess(tmp_path / "board.db")
    process.start()
    yield process
    process.kill()
