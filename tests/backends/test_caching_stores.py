"""The stores of the response cache; each keeps the same contract."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from tests.accounts.services import redis_server

from antiphon.backends.caching import CacheSettings, DiskStore, MemoryStore, Store, make_store
from antiphon.backends.caching.shared import RedisStore

pytestmark = pytest.mark.anyio

A, B = b"a" * 32, b"b" * 32


@pytest.fixture(scope="module")
def redis_url() -> Generator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture(params=["memory", "disk", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    if request.param == "memory":
        made: Store = MemoryStore(100_000, ttl_s=60)
    elif request.param == "disk":
        made = DiskStore(tmp_path / "sub" / "answers.sqlite3", 100_000, ttl_s=60)
    else:
        made = RedisStore(request.getfixturevalue("redis_url"), ttl_s=60)
        await made._redis.flushall()
    yield made
    await made.aclose()


async def test_what_is_put_is_found(store: Store) -> None:
    """A value is found under its key alone, and the last one put counts."""
    assert await store.get(A) is None
    await store.put(A, b"one")
    await store.put(A, b"two\0\xff")
    assert await store.get(A) == b"two\0\xff"
    assert await store.get(B) is None
    assert store.statistics().errors_total == 0


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_values_expire(kind: str, tmp_path: Path) -> None:
    """After its time a value is gone."""
    now = [1000.0]
    store: Store = (
        MemoryStore(1000, 60, lambda: now[0])
        if kind == "memory"
        else DiskStore(tmp_path / "a.sqlite3", 1000, 60, lambda: now[0])
    )
    await store.put(A, b"x")
    now[0] += 59
    assert await store.get(A) == b"x"
    now[0] += 2
    assert await store.get(A) is None
    await store.aclose()


async def test_memory_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    """What was read last stays; what is larger than all room is not kept."""
    store = MemoryStore(max_bytes=2 * 1200, ttl_s=60)
    await store.put(A, b"x" * 1000)
    await store.put(B, b"x" * 1000)
    assert await store.get(A)
    await store.put(b"c" * 32, b"x" * 1000)
    assert await store.get(B) is None
    assert await store.get(A)
    await store.put(B, b"x" * 5000)
    assert await store.get(B) is None
    assert store.statistics().bytes == 2400
    assert store.statistics().entries == 2


async def test_the_file_is_bounded_and_forgets_the_oldest(tmp_path: Path) -> None:
    """The file keeps about its bound, and the newest."""
    store = DiskStore(tmp_path / "a.sqlite3", 10_000, 60)
    for number in range(130):
        await store.put(str(number).rjust(32).encode(), b"x" * 1000)
    kept = [number for number in range(130) if await store.get(str(number).rjust(32).encode())]
    assert 9 <= len(kept) <= 12
    assert kept[-1] == 129
    await store.aclose()


async def test_a_file_outlives_the_server(tmp_path: Path) -> None:
    """What one server kept, the next one finds."""
    path = tmp_path / "a.sqlite3"
    first = DiskStore(path, 10_000, 60)
    await first.put(A, b"x")
    await first.aclose()
    await first.aclose()
    second = DiskStore(path, 10_000, 60)
    assert await second.get(A) == b"x"
    await second.aclose()
    assert await second.get(A) is None


async def test_a_broken_file_is_an_empty_cache(tmp_path: Path) -> None:
    """A store that fails finds nothing and counts the failure."""
    path = tmp_path / "a.sqlite3"
    path.write_bytes(b"no database" * 1000)
    store = DiskStore(path, 10_000, 60)
    assert await store.get(A) is None
    await store.put(A, b"x")
    assert store.statistics().errors_total == 2
    await store.aclose()


async def test_a_redis_that_is_away_is_an_empty_cache(tmp_path: Path) -> None:
    """It is asked once, then left alone for a second."""
    now = [1000.0]
    store = RedisStore(f"unix://{tmp_path}/none.sock", 60, lambda: now[0])
    assert await store.get(A) is None
    await store.put(A, b"x")
    assert store.statistics().errors_total == 1
    now[0] += 1.1
    assert await store.get(A) is None
    assert store.statistics().errors_total == 2
    await store.aclose()


async def test_settings_choose_the_store(tmp_path: Path) -> None:
    """Each name makes its store; none makes none."""
    assert make_store(CacheSettings(), tmp_path) is None
    for name, kind in {"memory": MemoryStore, "disk": DiskStore, "redis": RedisStore}.items():
        store = make_store(CacheSettings(store=name), tmp_path)  # type: ignore[arg-type]
        assert isinstance(store, kind)
        await store.aclose()
    with pytest.raises(ValueError, match="positive"):
        CacheSettings(ttl_s=0)
