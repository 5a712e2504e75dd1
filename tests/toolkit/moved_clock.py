"""A clock that only a test moves; a sleep moves it at once and is remembered."""

from dataclasses import dataclass, field


@dataclass
class MovedClock:
    time: float = 0.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
