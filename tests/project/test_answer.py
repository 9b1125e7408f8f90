"""The example of a long answer, in one process and on two nodes."""

import secrets
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import anyio
import pytest
from harness import errors, load
from redis_server import RedisServer
from timeouts import TIMEOUT

from websuckets.exc import Unavailable
from websuckets.history import Position
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

QUESTION = "Why?"


class Words:
    """A model whose words the test gives; an error among them ends the answer."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[str | Exception](100)
        self.questions: list[str] = []

    def say(self, *words: str | Exception) -> None:
        for word in words:
            self._send.send_nowait(word)

    def end(self) -> None:
        self._send.close()

    def close(self) -> None:
        self._send.close()
        self._receive.close()

    async def answer(self, question: str) -> AsyncGenerator[str, None]:
        self.questions.append(question)
        async for word in self._receive:
            if isinstance(word, Exception):
                raise word
            yield word


@pytest.fixture
def words() -> Iterator[Words]:
    words = Words()
    yield words
    words.close()


@pytest.fixture
def example(words: Words) -> Iterator[Any]:
    """Yield the example, whose words are those of the test."""
    example = load("answer")
    with example.app.override(values={example.Model: words}):
        yield example


def word(number: int, text: str) -> tuple[str, Any]:
    return "word", {"number": number, "text": text}


ANSWERED: tuple[str, Any] = ("answered", {})
FAILED: tuple[str, Any] = ("failed", {})


async def ask(client: TestClient, key: str = "k") -> Any:
    return (await client.call("ask", QUESTION, key=key)).payload


async def watch(client: TestClient, asked: Any) -> bool:
    """Watch an answer from its beginning; return whether all of it comes."""
    (position,) = (
        await client.call("watch", asked["id"], since=asked["since"])
    ).subscribed.values()
    recovered: bool = position["recovered"]
    return recovered


async def receive(client: TestClient, count: int) -> list[tuple[str, Any]]:
    events = [await client.receive() for _ in range(count)]
    return [(event.event, event.payload) for event in events]


async def test_an_answer_outlives_the_connection_that_asked(example: Any, words: Words) -> None:
    """Expect a second device to get all words, those from before it came and those after."""
    async with TestClient(example.app) as device:
        async with device.connect() as first:
            asked = await ask(first)
            assert await watch(first, asked)
            words.say("Because ", "light ")
            seen = await receive(first, 2)
            assert seen == [word(1, "Because "), word(2, "light ")]
        words.say("scatters")
        assert await watch(device, asked)
        assert await receive(device, 3) == [*seen, word(3, "scatters")]
        words.say(".")
        words.end()
        assert await receive(device, 2) == [word(4, "."), ANSWERED]
        async with device.connect() as third:
            assert await watch(third, asked)
            assert (await receive(third, 5))[-2:] == [word(4, "."), ANSWERED]
    assert words.questions == [QUESTION]


async def test_a_device_goes_on_behind_the_last_word_that_it_has_seen(
    example: Any, words: Words
) -> None:
    async with TestClient(example.app) as device:
        asked = await ask(device)
        await watch(device, asked)
        words.say("one", "two", "three")
        assert await receive(device, 3)
        (name, (epoch, _)), *_ = asked["since"].items()
        async with device.connect() as again:
            assert await watch(again, {"id": asked["id"], "since": {name: [epoch, 2]}})
            assert await receive(again, 1) == [word(3, "three")]


async def test_a_question_that_is_sent_again_gets_the_same_answer(
    example: Any, words: Words
) -> None:
    async with TestClient(example.app) as client:
        first = await ask(client)
        assert await ask(client) == first
        other = await ask(client, key="another")
        assert other["id"] != first["id"]
        words.end()
        for asked in first, other:
            await watch(client, asked)
            assert await receive(client, 1) == [ANSWERED]
    assert words.questions == [QUESTION] * 2


async def test_an_answer_that_fails_ends_with_an_event(
    example: Any, words: Words, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the words before it to be there, and one incident in the log."""
    async with TestClient(example.app) as client:
        asked = await ask(client)
        await watch(client, asked)
        words.say("Because", ValueError("no more"))
        assert await receive(client, 2) == [word(1, "Because"), FAILED]
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_a_word_is_published_until_the_log_has_it(
    example: Any, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect a word of which nobody knows whether it came to come again, with its number."""
    publish = example.app._channels.publish
    is_away = True

    async def lose(*arguments: Any) -> None:
        nonlocal is_away
        await publish(*arguments)
        if is_away:
            is_away = False
            raise Unavailable

    monkeypatch.setattr(example.app._channels, "publish", lose)
    monkeypatch.setattr(anyio, "sleep", lambda seconds: anyio.lowlevel.checkpoint())
    async with TestClient(example.app) as client:
        asked = await ask(client)
        await watch(client, asked)
        words.say("one", "two")
        assert await receive(client, 3) == [word(1, "one"), word(1, "one"), word(2, "two")]


async def test_an_answer_that_is_unknown_or_not_kept_is_not_recovered(
    example: Any, words: Words
) -> None:
    async with TestClient(example.app) as client:
        asked = await ask(client)
        assert await watch(client, asked)
        lost = {name: ["another epoch", 0] for name in asked["since"]}
        assert not await watch(client, {"id": asked["id"], "since": lost})


@pytest.mark.slow
async def test_the_longest_answer_is_there_from_its_beginning(
    example: Any, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect more words than clients get by default, and no word too many."""
    most = example.MOST_WORDS

    async def endless(question: str) -> AsyncGenerator[str, None]:
        while True:
            yield "word "

    monkeypatch.setattr(words, "answer", endless)
    async with TestClient(example.app) as client:
        asked = await ask(client)
        (name,) = asked["since"]
        channels = example.app._channels
        with anyio.fail_after(TIMEOUT):
            async for event in channels.listen(name, Position(*asked["since"][name])):
                if isinstance(event, example.Answered):
                    break
        assert await watch(client, asked)
        got = await receive(client, most + 1)
        assert got[0] == word(1, "word ")
        assert got[-2:] == [word(most, "word "), ANSWERED]


async def test_nodes_with_one_redis_share_their_answers(
    shared_redis: RedisServer, words: Words
) -> None:
    """Expect a device on another node to get all words, and a question to be answered once."""
    example = load("answer")
    one, two = (example.make_app(shared_redis.url) for _ in range(2))
    model = {example.Model: words}
    with one.override(values=model), two.override(values=model):
        async with TestClient(one) as first, TestClient(two) as second:
            key = secrets.token_hex(16)
            asked = await ask(first, key)
            assert await ask(second, key) == asked
            assert await watch(first, asked)
            words.say("one", "two")
            assert await receive(first, 2) == [word(1, "one"), word(2, "two")]
            assert await watch(second, asked)
            words.say("three")
            words.end()
            for device, missing in (first, 2), (second, 4):
                assert (await receive(device, missing))[-2:] == [word(3, "three"), ANSWERED]
    assert words.questions == [QUESTION]
