"""The page about browsers is true: its programs run, those of the client in Chromium."""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from pathlib import Path

import anyio
import httpx2
import jwt
import pages
import pytest
from browser_site import LOGIN, PASSWORD, Site, Visitor, write_files
from chromium import Browser
from harness import Client, dial
from redis_server import Proxy

from websuckets.app import Server
from websuckets.exc import NotAuthorized
from websuckets.session import current_session

pytestmark = [pytest.mark.anyio, pytest.mark.on_asyncio]

HOLD_PINGS = "window.setInterval = run => { window.tick = run; };"
"""Send a ping when the test says so."""

COUNT_TIMERS = """
    const [timers, set, clear] = [new Set(), setTimeout, clearTimeout];
    window.timers = timers;
    window.setTimeout = (run, ...rest) => {
        const timer = set(() => { timers.delete(timer); run(); }, ...rest);
        timers.add(timer);
        return timer;
    };
    window.clearTimeout = (timer) => { timers.delete(timer); clear(timer); };
"""
"""Keep the timers that have not run, so that a test sees that nothing more will happen."""

HURRY = """
    const [set, delays] = [setTimeout, []];
    Math.random = () => 0.5;
    window.setTimeout = (run, delay) => {
        if (delay > 60_000) return 0;  // the renewal of a token
        delays.push(delay);
        document.documentElement.dataset.delays = JSON.stringify(delays);
        return set(run, 0);
    };
"""
"""Run at once what would wait for up to a minute, and note for how long it would have waited."""

HOLD_RENEWALS = """
    const set = setTimeout;
    window.setTimeout = (run, delay) => delay > 60_000 ? (window.renew = run, 0) : set(run, delay);
"""
"""Renew a token when the test says so."""

FORGET_RENEWALS = """
    const set = setTimeout;
    window.setTimeout = (run, delay) => delay === 1000 ? 0 : set(run, delay);
"""
"""Forget timers of a second, half of the life of a token, like a machine that sleeps meanwhile."""


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """Return the program of the page; tests start it."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    return Site()


@pytest.fixture
async def ann(browser: Browser, site: Site) -> Visitor:
    return Visitor(await browser.tab(), site)


async def test_who_signs_in_gets_replies_and_events(ann: Visitor, site: Site) -> None:
    async with site.running():
        await ann.opens()
        await ann.signs_in("wrong")
        await ann.tab.until("result.textContent === 'wrong login or password'")
        await ann.signs_in()
        await ann.sees("online")
        await ann.says("Hello")
        assert await ann.tab.run("result.textContent") == "heard by 1"
        assert site.connections == 1


async def test_an_error_of_the_server_is_an_error_with_details(ann: Visitor, site: Site) -> None:
    async with site.running():
        await ann.opens()
        await ann.signs_in()
        await ann.sees("online")
        refused = await ann.tab.run("""(async () => {
            const { Client } = await import("./client.js");
            const refresh = async () => (await fetch("/session/refresh", {method: "POST"})).json();
            const client = new Client("/ws", refresh);
            await new Promise(online => { client.onstate = online; client.connect(); });
            const error = await client.call("say", {}).catch(error => error);
            client.stop();
            const later = await client.call("say", "Hello").catch(error => error);
            return [error.message, error.details[0].type, later.message];
        })()""")
        assert refused == ["validation error", "string_type", "not connected"]


async def test_whoever_loads_the_page_again_is_still_signed_in(ann: Visitor, site: Site) -> None:
    async with site.running():
        await ann.opens()
        await ann.signs_in()
        await ann.sees("online")
        await ann.opens()
        await ann.sees("online")
        await ann.says("I am back")
        await ann.tab.run("leave.click()")
        await ann.sees("signed out")
        await ann.opens()
        await ann.sees("signed out")


async def test_tabs_that_refresh_at_the_same_time_stay_signed_in(
    ann: Visitor, browser: Browser, site: Site
) -> None:
    async with site.running():
        await ann.opens()
        await ann.signs_in()
        await ann.sees("online")
        site.refreshing_takes = 0.3  # so that the second request would begin before the answer
        tabs = [ann, Visitor(await browser.tab(), site), Visitor(await browser.tab(), site)]
        for tab in tabs:
            await tab.opens()
        for tab in tabs:
            await tab.sees("online")


async def test_a_renewed_token_prolongs_the_time_of_its_connection(
    ann: Visitor, site: Site
) -> None:
    await ann.tab.before_each_page(HOLD_RENEWALS)
    async with site.running():
        await ann.opens()
        await ann.signs_in()
        await ann.sees("online")
        first_ends = site.user.expires_at
        site.main.LIFETIME *= 2
        await ann.tab.run("renew()")
        await ann.says("I have a new token")  # it comes behind the command `renew`
        assert site.user.expires_at > first_ends + 60
        assert site.connections == 1


@pytest.mark.heavy
async def test_a_token_is_renewed_and_the_connection_outlives_it(ann: Visitor, site: Site) -> None:
    async with site.running():
        site.main.LIFETIME = 4
        await ann.opens()
        await ann.signs_in()
        await ann.sees("online")
        first_ends = site.user.expires_at
        await anyio.sleep(first_ends + 0.1 - time.time())
        assert site.user.expires_at > first_ends
        await ann.says("I am still here")
        assert (site.connections, site.refreshes) == (1, 2)  # the first when the page was opened


async def test_a_token_that_was_not_renewed_in_time_is_replaced(ann: Visitor, site: Site) -> None:
    await ann.tab.before_each_page(FORGET_RENEWALS)
    async with site.running():
        site.main.LIFETIME = 2
        await ann.opens()
        await ann.signs_in()
        await ann.sees("online")
        await ann.sees("offline")
        await ann.sees("online")
        await ann.says("I am back")
        assert (site.connections, site.refreshes) == (2, 2)


async def test_tokens_that_are_refused_twice_end_in_the_sign_in(
    ann: Visitor, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect one refresh, one more connection, and no timer for another."""
    await ann.tab.before_each_page(COUNT_TIMERS)
    async with site.running():
        await ann.opens()
        await ann.sees("signed out")
        site.requests.clear()
        with monkeypatch.context() as patch:
            patch.setattr(site.main, "identity_of", refuse)
            await ann.signs_in()
            await ann.tab.until("state.textContent === 'offline'")
            await ann.sees("signed out")
        assert site.requests == [
            "POST /session",
            "connect /ws",
            "POST /session/refresh",
            "connect /ws",
        ]
        assert await ann.tab.run("timers.size") == 0
        await ann.signs_in()
        await ann.sees("online")


async def test_without_a_refresh_token_a_refused_client_stops(ann: Visitor, site: Site) -> None:
    await ann.tab.before_each_page(COUNT_TIMERS)
    async with site.running():
        await ann.opens()
        await ann.signs_in()
        await ann.sees("online")
        site.requests.clear()
        site.main.SIGNED_IN.clear()
        await current_session().revoke(LOGIN)
        await ann.sees("signed out")
        assert site.requests == ["POST /session/refresh"]
        assert await ann.tab.run("timers.size") == 0


async def test_a_client_comes_back_when_the_server_was_restarted(ann: Visitor, site: Site) -> None:
    async with site.running():
        await ann.opens()
        await ann.signs_in()
        await ann.sees("online")
    await ann.sees("offline")
    async with site.running():
        await ann.sees("online")
        await ann.says("So are you")
        assert await ann.tab.run("entry.hidden")


async def test_attempts_come_later_and_later_while_the_server_is_away(
    ann: Visitor, site: Site
) -> None:
    await ann.tab.before_each_page(HURRY)
    async with site.running():
        await ann.opens()
        await ann.signs_in()
        await ann.sees("online")
    await ann.tab.until("JSON.parse(document.documentElement.dataset.delays).length >= 9")
    delays = await ann.tab.run("JSON.parse(document.documentElement.dataset.delays).slice(0, 9)")
    assert delays == [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]
    async with site.running():
        await ann.sees("online")


async def test_a_server_that_falls_silent_is_left(ann: Visitor, site: Site) -> None:
    await ann.tab.before_each_page(HOLD_PINGS)
    proxy = Proxy(site.listens_on)
    async with proxy.running():
        site.port = proxy.port
        async with site.running():
            await ann.opens()
            await ann.signs_in()
            await ann.sees("online")
            await ann.tab.run("tick()")
            await ann.says("The server answers")
            proxy.swallow()
            await ann.tab.run("tick()")
            assert await ann.tab.run("state.textContent") == "online"
            await ann.tab.run("tick()")  # the answer to the last ping is missing
            await ann.sees("offline")
            proxy.let_through()
            await ann.sees("online")


@pytest.mark.heavy
async def test_the_client_heeds_each_close_code_as_the_table_says(ann: Visitor, site: Site) -> None:
    await ann.tab.before_each_page(HURRY)
    async with site.running():
        await ann.opens()
        await ann.signs_in()
        await ann.sees("online")
        for code, advice in close_codes():
            await ann.opens()  # which forgets the attempts
            await ann.sees("online")
            await site.user.socket.close(code)
            if code != 4401 and not advice.startswith("yes"):
                await ann.sees("stopped")
            else:
                await ann.tab.until("document.documentElement.dataset.delays")
                (delay,) = await ann.tab.run("JSON.parse(document.documentElement.dataset.delays)")
                assert delay == (30_250 if "slower" in advice else 250), code
                await ann.sees("online")


def refuse(token: str) -> None:
    raise NotAuthorized


def close_codes() -> list[tuple[int, str]]:
    """Return the codes of the table of close codes, each with the advice to the client."""
    table = (pages.ROOT / "docs" / "limits.md").read_text().partition("## Close codes")[2]
    rows = re.findall(r"^\| (\d{4}(?:, \d{4})*) \|.*\| (.+?) \|$", table, re.MULTILINE)
    found = [(int(code), advice) for codes, advice in rows for code in codes.split(", ")]
    assert len(found) >= 11
    return found


# The server, without a browser


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx2.AsyncClient]:
    """Start the server, and yield a client for HTTP that keeps cookies."""
    async with (
        site.running(),
        # It does not send cookies that are `Secure` without TLS: the tests do.
        httpx2.AsyncClient(base_url=site.url, trust_env=False, verify=False) as http,
    ):
        yield http


async def sign_in(http: httpx2.AsyncClient) -> httpx2.Response:
    return await http.post("/session", json={"login": LOGIN, "password": PASSWORD})


async def test_scripts_and_other_sites_cannot_use_the_refresh_token(
    http: httpx2.AsyncClient,
) -> None:
    cookie = SimpleCookie((await sign_in(http)).headers["Set-Cookie"])["refresh_token"]
    assert (cookie["httponly"], cookie["secure"]) == (True, True)
    assert (cookie["samesite"], cookie["path"]) == ("strict", "/session")


async def test_a_refresh_token_is_good_once(http: httpx2.AsyncClient) -> None:
    cookie = SimpleCookie((await sign_in(http)).headers["Set-Cookie"])["refresh_token"]
    headers = {"Cookie": f"refresh_token={cookie.value}"}
    statuses = [
        (await http.post("/session/refresh", headers=headers)).status_code for _ in range(2)
    ]
    assert statuses == [200, 401]


@pytest.mark.parametrize(
    ("login", "password"), [(LOGIN, "wrong"), (LOGIN, ""), ("nobody", ""), ("nobody", "wrong")]
)
async def test_a_wrong_password_signs_nobody_in(
    http: httpx2.AsyncClient, login: str, password: str
) -> None:
    answer = await http.post("/session", json={"login": login, "password": password})
    assert (answer.status_code, answer.headers.get("Set-Cookie")) == (401, None)


async def test_handshakes_without_a_good_token_are_closed_with_4401(
    http: httpx2.AsyncClient, site: Site
) -> None:
    other_key = jwt.encode({"sub": LOGIN, "exp": time.time() + 60}, "another key" * 3)
    over = jwt.encode({"sub": LOGIN, "exp": time.time() - 1}, site.main.KEY)
    for_ever = jwt.encode({"sub": LOGIN}, site.main.KEY)
    for token in (None, "", "rubbish", other_key, over, for_ever):
        async with connected(site, token) as client:
            assert (await client.closed())[0] == 4401, token


async def test_a_connection_is_not_renewed_by_the_token_of_another_user(
    http: httpx2.AsyncClient, site: Site
) -> None:
    token = (await sign_in(http)).json()["token"]
    bobs = jwt.encode({"sub": "bob", "exp": time.time() + 3600}, site.main.KEY)
    async with connected(site, token) as client:
        assert client.connection.subprotocol == "chat.v1"
        ends = site.user.expires_at
        for bad in (bobs, "rubbish"):
            assert (await client.call("renew", token=bad))["error"] == "not authorized"
        assert site.user.expires_at == ends


@asynccontextmanager
async def connected(site: Site, token: str | None) -> AsyncIterator[Client]:
    """Yield a client that offers this token."""
    server = Server(site.port, (f"ws://127.0.0.1:{site.port}/ws",))
    offered = ["chat.v1", *([] if token is None else [f"token.{token}"])]
    async with dial(server, subprotocols=offered, origin=site.url) as client:
        yield client
