"""The deliveries that are due, in the accounts' database: a restart loses none, and of several servers one sends each."""

import time

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.schema import webhook_deliveries as table

MAX_WAITING = 100_000
"""More are not kept: an address that never answers must not fill the database."""


class Delivery(msgspec.Struct, frozen=True):
    """One event for one address. Times are Unix milliseconds; ``num_attempts`` have failed so far."""

    event_id: str
    url: str
    body: bytes
    created_at_ms: int
    next_at_ms: int
    num_attempts: int = 0


class Deliveries:
    """``engine`` is owned by its creator. Raises SQLAlchemy's errors."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, deliveries: list[Delivery]) -> bool:
        """Keep deliveries that are due; False where too many wait."""
        async with self._engine.begin() as connection:
            waiting: int = (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            if waiting + len(deliveries) > MAX_WAITING:
                return False
            await connection.execute(insert(table), [msgspec.structs.asdict(delivery) for delivery in deliveries])
        return True

    async def claim(self, limit: int, lease_s: float) -> list[Delivery]:
        """Return deliveries that are due, and put them off for everybody else for ``lease_s``."""
        now = now_ms()
        async with self._engine.begin() as connection:
            due = select(table).where(table.c.next_at_ms <= now).order_by(table.c.next_at_ms).limit(limit)
            claimed: list[Delivery] = []
            for row in (await connection.execute(due)).mappings().all():
                found = Delivery(**row)
                mine = _is(found) & (table.c.next_at_ms == found.next_at_ms)
                put_off = update(table).where(mine).values(next_at_ms=now + round(lease_s * 1000))
                if (await connection.execute(put_off)).rowcount:
                    claimed.append(found)
        return claimed

    async def failed(self, delivery: Delivery, wait_s: float) -> None:
        """Count a failed attempt; the next is due after ``wait_s``."""
        values = {"num_attempts": delivery.num_attempts + 1, "next_at_ms": now_ms() + round(wait_s * 1000)}
        async with self._engine.begin() as connection:
            await connection.execute(update(table).where(_is(delivery)).values(**values))

    async def remove(self, delivery: Delivery) -> None:
        """Forget a delivery that arrived, or is given up."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(table).where(_is(delivery)))

    async def next_at_ms(self) -> int | None:
        """Return when the next delivery is due; None where none waits."""
        try:
            async with self._engine.connect() as connection:
                return (await connection.execute(select(func.min(table.c.next_at_ms)))).scalar_one()
        except SQLAlchemyError:
            return None


def _is(delivery: Delivery):  # noqa: ANN202 - SQLAlchemy's expression
    return (table.c.event_id == delivery.event_id) & (table.c.url == delivery.url)


def now_ms() -> int:
    return round(time.time() * 1000)
