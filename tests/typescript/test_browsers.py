"""Behaviour of the TypeScript client that only browsers have: networks, frozen pages, tabs."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import chromium
import pytest
from chromium import Browser, Tab
from client_servers import LinkThread, ServerProcess
from static_site import serving
from typescript_package import Package

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.heavy,
    pytest.mark.timeout(600),
    pytest.mark.on_asyncio,
]

Place = tuple[str, ServerProcess, LinkThread]


@pytest.fixture
def place(package: Package, tmp_path: Path) -> Iterator[Place]:
    """Yield the URL of an empty page with the client, a server that runs, and a link to it."""
    whole = package.folder / "browser.js"
    whole.write_text('export * from "websuckets";\n')
    bundle = package.tool(
        "esbuild", whole.name, "--bundle", "--format=iife", "--global-name=websuckets"
    )
    files = {
        "/": ("text/html", '<p></p><script src="client.js"></script>'),
        "/client.js": ("text/javascript", bundle),
    }
    server = ServerProcess(tmp_path / "effects.db")
    with ExitStack() as stack:
        server.start()
        stack.callback(server.kill)
        link = LinkThread(server.port)
        link.start()
        stack.callback(link.stop)
        yield stack.enter_context(serving(files)), server, link


async def connected(browser: Browser, place: Place, options: str) -> Tab:
    """Return a tab with a client that is open; its state stands in the page."""
    url, _, link = place
    tab = await browser.tab()
    await tab.open(url)
    await tab.run(f"""
        globalThis.client = new websuckets.Client("ws://127.0.0.1:{link.port}", {options});
        client.onState((state) => document.querySelector("p").textContent = state);
        undefined
    """)
    await until(tab, "open")
    return tab


async def until(tab: Tab, state: str) -> None:
    await tab.until(f"document.querySelector('p').textContent === '{state}'")


async def test_a_client_connects_at_once_when_the_network_is_back(
    place: Place, chromium_address: str
) -> None:
    """Expect it before the pause is over, which takes ten minutes."""
    _, _, link = place
    async with chromium.profile(chromium_address) as browser:
        tab = await connected(
            browser, place, "{ backoff: { first: 600000, most: 600000, random: () => 1 } }"
        )
        link.cut()
        await until(tab, "waiting")
        link.restore()
        await tab._call("Network.enable")
        network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await tab._call("Network.emulateNetworkConditions", offline=True, **network)
        # The page has to notice the loss: else it does not notice the return either. The client
        # tries to connect at the event "offline", too; that attempt may still run at "online".
        await tab.run(
            "new Promise((seen) => {"
            "  addEventListener('offline', () => seen()); if (!navigator.onLine) seen(); })"
        )
        await tab._call("Network.emulateNetworkConditions", offline=False, **network)
        await until(tab, "open")
        assert await tab.run("client.call('add', [1, 2])") == 3


async def test_a_page_that_was_frozen_finds_that_its_connection_is_dead(
    place: Place, chromium_address: str
) -> None:
    """Expect it as soon as timers run again, in the time of a probe, not of the heartbeat."""
    _, _, link = place
    async with chromium.profile(chromium_address) as browser:
        options = "{ heartbeat: 1000, openTimeout: 500, backoff: { first: 20, most: 100 } }"
        tab = await connected(browser, place, options)
        await tab._call("Page.enable")
        await tab._call("Page.setWebLifecycleState", state="frozen")
        link.lose_all_data()
        await tab._call("Page.setWebLifecycleState", state="active")
        await tab.until("document.querySelector('p').textContent !== 'open'")
        link.restore()
        await until(tab, "open")
        assert await tab.run("client.call('add', [1, 2])") == 3


async def test_two_tabs_have_clients_of_their_own(place: Place, chromium_address: str) -> None:
    """Expect that each gets the events of its subscription, once, and goes on without the other."""
    _, server, link = place
    subscribe = """
        globalThis.heard = [];
        client.subscribe("watch", 1).then((subscription) => {
            subscription.forEach((event) => {
                heard.push(event.payload.number);
                document.title = heard.join();
            });
        })
    """
    async with chromium.profile(chromium_address) as browser:
        options = "{ backoff: { first: 20, most: 100 } }"
        tabs = [await connected(browser, place, options) for _ in range(2)]
        for tab in tabs:
            await tab.run(subscribe)
        server.control("say", {"room": 1, "numbers": [1, 2]})
        for tab in tabs:
            await tab.until("document.title === '1,2'")
        await tabs[0].run("client.close()")
        link.cut()
        await until(tabs[1], "waiting")
        server.control("say", {"room": 1, "numbers": [3]})
        link.restore()
        await tabs[1].until("document.title === '1,2,3'")
        assert await tabs[0].run("document.title") == "1,2"


async def test_a_burst_of_events_comes_in_order_and_leaves_none_out(
    place: Place, chromium_address: str
) -> None:
    """Expect that of more events than the buffer holds."""
    _, server, _ = place
    async with chromium.profile(chromium_address) as browser:
        tab = await connected(browser, place, "{ buffer: 100 }")
        await tab.run("""
            globalThis.heard = [];
            client.subscribe("watch", 2).then((subscription) => {
                subscription.forEach((event) => {
                    heard.push(event.payload.number);
                    if (heard.length === 1000) document.title = "all";
                });
            })
        """)
        server.control("say", {"room": 2, "numbers": list(range(1000))})
        await tab.until("document.title === 'all'")
        assert await tab.run("heard.every((number, n) => number === n)")
