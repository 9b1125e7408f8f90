from collections.abc import AsyncIterator, Iterator

import chromium
import pytest
from chromium import Browser


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Yield the address of a Chromium for all tests of a worker."""
    binary = chromium.find_binary()
    if binary is None:
        pytest.skip("no Chromium is installed")
    with chromium.running(binary) as address:
        yield address


@pytest.fixture
async def browser(address: str) -> AsyncIterator[Browser]:
    async with chromium.profile(address) as browser:
        yield browser
