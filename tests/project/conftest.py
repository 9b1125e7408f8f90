from collections.abc import AsyncIterator, Iterator

import chromium
import pytest
from chromium import Browser


@pytest.fixture(scope="session")
def chromium_address() -> Iterator[str]:
    """Yield the address of a Chromium for all tests of a worker."""
    binary = chromium.find_binary()
    if binary is None:
        pytest.skip("no Chromium is installed")
    with chromium.running(binary) as address:
        yield address


@pytest.fixture
async def browser(chromium_address: str) -> AsyncIterator[Browser]:
    async with chromium.profile(chromium_address) as browser:
        yield browser
