"""Rate limits and quotas: the arithmetic on a clock of the test's own, and the same story told to Redis."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.errors import ConfigError, ResourceError
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.book import Allowance, Book, MemoryBook, Reservation, Standing
from tuneloop.serve.keys import Key, KeyLimits
from tuneloop.serve.limits import Limits, LimitsConfig, duration

KEY = Key("k1", "app", ("chat",), 0)
HOLD_S = 30.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def take(book: Book, allowance: Allowance, tokens: int, name: str = "r") -> str | None:
    return (await book.take("k", allowance, 0, tokens, name)).refused


def test_a_minutes_limit_gives_a_minutes_amount_at_once_and_then_its_rate() -> None:
    async def story() -> list[bool]:
        clock = Clock()
        book, allowance, seen = MemoryBook(clock), Allowance(requests_per_minute=6), []
        for step_s in (0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 60):  # one more every 10 s
            clock.now_s += step_s
            seen.append((await book.take("k", allowance, 1, 0, "")).refused is None)
        return seen

    assert asyncio.run(story()) == [True] * 6 + [False, False, True, False, True]


def test_reserved_tokens_are_exchanged_for_those_that_were_used() -> None:
    async def story() -> list[str | None]:
        book, allowance = MemoryBook(Clock()), Allowance(tokens_per_minute=100)
        seen = [await take(book, allowance, 80), await take(book, allowance, 80)]
        await book.settle(Reservation("k", allowance, "r", 80, book), 15)
        return [*seen, await take(book, allowance, 85), await take(book, allowance, 1)]

    assert asyncio.run(story()) == [None, "tokens", None, "tokens"]


def test_what_is_reserved_does_not_leak_while_the_answer_is_made() -> None:
    """Else an answer that takes a minute would be given back tokens that have leaked already."""

    async def story() -> list[str | None]:
        clock = Clock()
        book, allowance = MemoryBook(clock), Allowance(tokens_per_minute=100)
        await take(book, allowance, 100)
        clock.now_s += 60
        seen = [await take(book, allowance, 1)]
        await book.settle(Reservation("k", allowance, "r", 100, book), 40)
        return [*seen, await take(book, allowance, 61), await take(book, allowance, 60)]

    assert asyncio.run(story()) == ["tokens", "tokens", None]


def test_a_days_quota_begins_anew_at_midnight_utc_and_not_before() -> None:
    async def story() -> list[str | None]:
        clock = Clock()
        book, allowance = MemoryBook(clock), Allowance(tokens_per_day=10)
        await take(book, allowance, 10)
        await book.settle(Reservation("k", allowance, "r", 10, book), 10)
        midnight = (clock.now_s // 86400 + 1) * 86400
        seen = []
        for now in (midnight - 1, midnight):
            clock.now_s = now
            seen.append(await take(book, allowance, 1))
        return seen

    assert asyncio.run(story()) == ["tokens of the day", None]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 30), st.integers(1, 60), st.floats(0, 1)
        ),  # pause, asked for, share of it that is really used
        max_size=40,
    )
)
def test_no_sixty_seconds_ever_use_more_than_twice_the_limit(calls: list[tuple[float, int, float]]) -> None:
    """A full bucket and its refill: the bound of every leaky bucket. Oracle: the uses, added up one by one."""

    async def story() -> None:
        clock = Clock()
        book, allowance, used = MemoryBook(clock), Allowance(tokens_per_minute=100), []
        for pause, asked, share in calls:
            clock.now_s += pause
            if await take(book, allowance, asked) is None:
                spent = round(asked * share)
                await book.settle(Reservation("k", allowance, "r", asked, book), spent)
                used.append((clock.now_s, spent))
        for start, _ in used:
            assert sum(n for at, n in used if start <= at < start + 60) <= 200

    asyncio.run(story())


def test_a_keys_own_limit_comes_before_the_configured_one_and_zero_frees_it() -> None:
    limits = Limits(LimitsConfig(requests_per_minute=10, tokens_per_day=1000), HOLD_S)

    def allowance(**own: int) -> Allowance:
        return limits.allowance(Key("k", "n", ("chat",), 0, limits=KeyLimits(**own)))

    assert allowance() == Allowance(10, 0, 1000)
    assert allowance(requests_per_minute=3) == Allowance(3, 0, 1000)
    assert allowance(tokens_per_day=0) == Allowance(10, 0, 0)


def test_a_refusal_is_a_429_with_retry_after_and_openais_headers() -> None:
    async def story() -> tuple[ApiError, dict[str, str]]:
        limits, headers = Limits(LimitsConfig(requests_per_minute=2, tokens_per_minute=600), HOLD_S), {}
        held = await limits.reserve(KEY, 500, headers)
        limits.settle(held, 500)
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as caught:
            await limits.reserve(KEY, 200, {})
        await limits.count(KEY, headers)
        return caught.value, headers

    error, headers = asyncio.run(story())
    assert (error.status_code, error.code) == (429, "rate_limit_exceeded")
    assert error.headers is not None
    assert 9 <= int(error.headers["Retry-After"]) <= 10  # 100 tokens too many, 10 a second
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-reset-requests"] == "30s"
    assert headers["x-ratelimit-limit-tokens"] == "600"
    assert headers["x-ratelimit-remaining-tokens"] in ("100", "101")


def test_a_days_quota_is_told_in_headers_of_its_own_and_is_insufficient_when_used_up() -> None:
    async def story() -> tuple[dict[str, str], ApiError]:
        clock, headers = Clock(), {}  # 1,000,000 s since 1970 is 13:46:40, so it is 36,800 s to midnight
        limits = Limits(LimitsConfig(tokens_per_day=100), HOLD_S, MemoryBook(clock))
        limits.settle(await limits.reserve(KEY, 80, {}), 60)
        await asyncio.sleep(0)
        await limits.count(KEY, headers)
        with pytest.raises(ApiError) as caught:
            await limits.reserve(KEY, 50, {})
        return headers, caught.value

    headers, error = asyncio.run(story())
    told = {"limit": "100", "remaining": "40", "reset": "613m20s"}
    assert headers == {f"x-ratelimit-{part}-tokens-day": value for part, value in told.items()}
    assert (error.status_code, error.body["error"]["type"], error.code) == (429, *["insufficient_quota"] * 2)
    assert error.headers == headers | {"Retry-After": "36800"}


def test_a_request_beyond_the_whole_limit_is_not_told_to_try_again() -> None:
    async def story() -> ApiError:
        with pytest.raises(ApiError) as caught:
            await Limits(LimitsConfig(tokens_per_minute=100), HOLD_S).reserve(KEY, 101, {})
        return caught.value

    error = asyncio.run(story())
    assert error.code == "request_exceeds_limit"
    assert "Retry-After" not in (error.headers or {})


@pytest.mark.parametrize(
    ("seconds", "written"), [(0, "0ms"), (0.0101, "11ms"), (1, "1s"), (1.44, "1.5s"), (360, "6m0s"), (61.2, "1m2s")]
)
def test_durations_are_written_as_openai_writes_them(seconds: float, written: str) -> None:
    """The forms in OpenAI's guide to rate limits: ``1s``, ``6m0s``; milliseconds as its servers send them."""
    assert duration(seconds) == written


class Broken:
    """A book that cannot be reached, until it can."""

    def __init__(self) -> None:
        self.broken, self.asked, self.inner = True, 0, MemoryBook()

    def _check(self) -> None:
        self.asked += 1
        if self.broken:
            raise ResourceError("gone")

    async def take(self, key_id: str, allowance: Allowance, requests: int, tokens: int, reservation: str) -> Standing:
        self._check()
        return await self.inner.take(key_id, allowance, requests, tokens, reservation)

    async def settle(self, held: Reservation, used: int) -> None:
        self._check()
        await self.inner.settle(held, used)

    async def close(self) -> None: ...


def test_books_that_cannot_be_reached_refuse_with_503_and_are_not_asked_in_vain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def story() -> int:
        book = Broken()
        limits = Limits(LimitsConfig(requests_per_minute=100), HOLD_S, book)
        for _ in range(5):
            with pytest.raises(ApiError) as caught:
                await limits.count(KEY, {})
            assert (caught.value.status_code, caught.value.code) == (503, "limits_unavailable")
        return book.asked

    assert asyncio.run(story()) == 1
    assert capsys.readouterr().err.count("gone") == 1


def test_books_that_cannot_be_reached_can_leave_the_count_to_the_process_but_never_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        book = Broken()
        config = LimitsConfig(requests_per_minute=2, tokens_per_minute=100, when_redis_fails="memory")
        limits = Limits(config, HOLD_S, book)
        held = await limits.reserve(KEY, 100, {})
        await limits.count(KEY, {})
        await limits.count(KEY, {})
        with pytest.raises(ApiError) as caught:
            await limits.count(KEY, {})
        assert caught.value.status_code == 429
        book.broken = False
        monkeypatch.setattr("tuneloop.serve.limits.RETRY_REDIS_S", 0.0)
        await limits.count(KEY, {})  # back at the book
        limits.settle(held, 10)  # goes back to where it was taken
        await asyncio.sleep(0)
        assert (await limits._memory.take("k1", Allowance(2, 100), 0, 90, "x")).refused is None

    asyncio.run(story())


@contextmanager
def redis_server(folder: Path, port: int = 0) -> Iterator[int]:
    """A real Redis on a loopback port; gives the port."""
    pytest.importorskip("redis", reason="pip install 'tuneloop[redis]'")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log) as server:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.02)
        yield port
        server.terminate()


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield f"redis://127.0.0.1:{port}/0"


def test_a_redis_that_goes_and_comes_back_is_a_503_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It forgets (nothing is saved here), but it never opens the door."""
    monkeypatch.setattr("tuneloop.serve.limits.RETRY_REDIS_S", 0.0)

    async def status(limits: Limits) -> int:
        try:
            await limits.count(KEY, {})
        except ApiError as error:
            return error.status_code
        return 200

    async def story() -> list[int]:
        with redis_server(tmp_path) as port:
            limits = Limits(LimitsConfig(requests_per_minute=2, redis_url=f"redis://127.0.0.1:{port}/0"), HOLD_S)
            seen = [await status(limits) for _ in range(3)]
        seen.append(await status(limits))
        with redis_server(tmp_path, port):
            seen.append(await status(limits))
            await limits.close()
        return seen

    assert asyncio.run(story()) == [200, 200, 429, 503, 200]


def test_redis_tells_the_same_story_as_memory(redis_url: str) -> None:
    """The same calls in the same order; the clock moves so little meanwhile that no leak changes a verdict."""
    from tuneloop.serve.redis_book import RedisBook

    allowance = Allowance(requests_per_minute=3, tokens_per_minute=1000, tokens_per_day=1500)

    async def story(book: Book) -> list[tuple[str | None, int, int, int]]:
        seen = []

        async def ask(requests: int, tokens: int, name: str) -> None:
            got = await book.take("same", allowance, requests, tokens, name)
            seen.append((got.refused, round(got.requests), round(got.tokens, -1), round(got.day_tokens)))  # type: ignore[arg-type]

        for requests, tokens, name in ((1, 0, ""), (1, 600, "a"), (1, 600, "b"), (1, 400, "b"), (1, 0, ""), (1, 0, "")):
            await ask(requests, tokens, name)
        await book.settle(Reservation("same", allowance, "a", 600, book), 500)
        await book.settle(Reservation("same", allowance, "b", 400, book), 0)
        for tokens, name in ((600, "c"), (400, "c"), (100, "d")):
            await ask(0, tokens, name)
        await book.close()
        return seen

    assert asyncio.run(story(RedisBook(redis_url, 1.0, HOLD_S))) == asyncio.run(story(MemoryBook()))


def test_two_replicas_share_one_limit_and_race_for_nothing(redis_url: str) -> None:
    from tuneloop.serve.redis_book import RedisBook

    async def story() -> int:
        books = [RedisBook(redis_url, 1.0, HOLD_S) for _ in range(2)]
        allowance = Allowance(requests_per_minute=20)
        got = await asyncio.gather(*(books[i % 2].take("race", allowance, 1, 0, "") for i in range(60)))
        for book in books:
            await book.close()
        return sum(standing.refused is None for standing in got)

    assert asyncio.run(story()) == 20


def test_the_reservation_of_a_replica_that_died_ends_by_itself(redis_url: str) -> None:
    from tuneloop.serve.redis_book import RedisBook

    async def story() -> tuple[str | None, str | None]:
        dead, alive = RedisBook(redis_url, 1.0, 0.3), RedisBook(redis_url, 1.0, 0.3)
        allowance = Allowance(tokens_per_day=10)
        await take(dead, allowance, 10, "never settled")
        await dead.close()
        before = await take(alive, allowance, 10, "x")
        await asyncio.sleep(0.35)
        after = await take(alive, allowance, 10, "y")
        await alive.close()
        return before, after

    assert asyncio.run(story()) == ("tokens of the day", None)


def test_a_redis_that_is_away_is_a_resource_error_within_its_time() -> None:
    pytest.importorskip("redis", reason="pip install 'tuneloop[redis]'")
    from tuneloop.serve.redis_book import RedisBook

    async def story() -> None:
        with socket.socket() as silent:  # accepts and never answers
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            book = RedisBook(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", 0.2, HOLD_S)
            begun = time.monotonic()
            with pytest.raises(ResourceError, match="Redis does not answer"):
                await take(book, Allowance(tokens_per_day=10), 1)
            assert time.monotonic() - begun < 2
            await book.close()

    asyncio.run(story())


def test_the_address_of_redis_can_stay_out_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis", reason="pip install 'tuneloop[redis]'")
    from tuneloop.serve.redis_book import RedisBook

    monkeypatch.setenv("TUNELOOP_REDIS_URL", "redis://:secret@127.0.0.1:1/0")
    assert isinstance(Limits(LimitsConfig(), HOLD_S)._book, RedisBook)
    monkeypatch.setenv("TUNELOOP_REDIS_URL", "http://:secret@127.0.0.1:1/0")
    with pytest.raises(ConfigError, match="no URL of a Redis") as caught:
        Limits(LimitsConfig(), HOLD_S)
    assert "secret" not in str(caught.value)
