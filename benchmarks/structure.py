"""``python -m benchmarks.structure CASES``: does everything the default model writes under a schema validate?

CASES holds one JSON object per line, with ``name`` and ``schema``, as in MaskBench. Each schema is sent as
``response_format`` to a server started here, 16 requests at once, and ``jsonschema`` judges each answer, with the formats
that it knows. Answers are kept in ``--out``, so that an interrupted run can continue. Exits with 1 if a complete answer does
not validate, or a schema is refused without the name of a keyword.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from openai import AsyncOpenAI, BadRequestError

from benchmarks import machine
from benchmarks.arguments import at_least_one
from benchmarks.serving import asking_defaults

_PARALLEL = 16
_WORDS = "Write an example of such a JSON value, short and with sensible content."
_NO_ROOM = "context_length_exceeded"
_MASK_BUCKET = re.compile(r'^antiphon_engine_mask_s_bucket\{le="([^"]+)".*\} (\S+)$', re.MULTILINE)
_QUOTED = re.compile(r"'([^']+)'")


class Case(msgspec.Struct, frozen=True):
    """A schema and its name."""

    name: str
    schema: Any


class Question(msgspec.Struct, frozen=True):
    """The parameters of a question."""

    case: Case
    temperature: float
    max_tokens: int


class Outcome(msgspec.Struct, frozen=True):
    """The result of a case: ``refused`` holds the server's message, ``problem`` why a complete answer is not valid."""

    name: str
    temperature: float
    max_tokens: int
    tokens: int = 0
    text: str = ""
    reason: str = ""
    refused: str | None = None
    code: str | None = None
    problem: str | None = None


def main() -> int:
    """Ask the questions that are left, and print the figures of all."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    cases = [msgspec.json.decode(line, type=Case) for line in options.cases.read_bytes().splitlines()]
    journal = options.out / "answers.jsonl"
    asyncio.run(_ask_all(cases, journal, options))
    outcomes = _read(journal)
    print(report(cases, outcomes))
    return 1 if any(map(is_defect, outcomes)) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure", description=__doc__)
    parser.add_argument("cases", type=Path, help="a file of schemas, one JSON object a line")
    parser.add_argument("--temperature", action="append", type=float, help="may be repeated [default: 1 and 0]")
    parser.add_argument("--max-tokens", type=at_least_one, default=1024, help="where an answer is cut [default: 1024]")
    parser.add_argument(
        "--longer", type=at_least_one, default=4096, help="asked again with, where it was cut [default: 4096]"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="after which nothing new is asked [default: 60]")
    parser.add_argument(
        "--threads", type=at_least_one, default=machine.describe()["cores"], help="[default: the cores]"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/structure"), help="folder for answers")
    return parser.parse_args()


async def _ask_all(cases: Sequence[Case], journal: Path, options: argparse.Namespace) -> None:
    questions = list(_open_questions(cases, _read(journal), options))
    if not questions:
        return
    async with asking_defaults(options.threads, options.out) as (client, server):
        with journal.open("ab", buffering=0) as book:
            left = await _Inquiry(client, options, book).run(questions)
        _, metrics = await server.client.get("/metrics")
    print(mask_times(metrics.decode()), file=sys.stderr)
    if left:
        print(f"The time is up, {left} questions are left: run it again to go on.", file=sys.stderr)


def _open_questions(
    cases: Sequence[Case], outcomes: Sequence[Outcome], options: argparse.Namespace
) -> Iterator[Question]:
    """Yield the questions not asked yet, and those whose answer was cut and not asked again."""
    done = {(outcome.name, outcome.temperature, outcome.max_tokens) for outcome in outcomes}
    cut = {(outcome.name, outcome.temperature) for outcome in outcomes if outcome.reason == "length"}
    for temperature in options.temperature or [1.0, 0.0]:
        for case in cases:
            if (case.name, temperature, options.max_tokens) not in done:
                yield Question(case, temperature, options.max_tokens)
    for temperature in options.temperature or [1.0, 0.0]:
        for case in cases:
            if (case.name, temperature) in cut and (case.name, temperature, options.longer) not in done:
                yield Question(case, temperature, options.longer)


class _Inquiry:
    """Asks, judges, and writes each outcome to ``book`` as soon as it is complete."""

    def __init__(self, client: AsyncOpenAI, options: argparse.Namespace, book: BinaryIO) -> None:
        self._client = client
        self._options = options
        self._book = book
        self._until = time.monotonic() + options.minutes * 60

    async def run(self, questions: Sequence[Question]) -> int:
        """Return how many questions were left when the time was up; questions in work are finished."""
        waiting = deque(questions)

        async def ask_on() -> None:
            while waiting and time.monotonic() < self._until:
                question = waiting.popleft()
                outcome = await self._ask(question)
                self._book.write(msgspec.json.encode(outcome) + b"\n")
                if outcome.reason == "length" and question.max_tokens < self._options.longer:
                    waiting.append(msgspec.structs.replace(question, max_tokens=self._options.longer))

        async with asyncio.TaskGroup() as group:
            for _ in range(_PARALLEL):
                group.create_task(ask_on())
        return len(waiting)

    async def _ask(self, question: Question) -> Outcome:
        case = question.case
        form: Any = {"type": "json_schema", "json_schema": {"name": "example", "schema": case.schema}}
        outcome = Outcome(case.name, question.temperature, question.max_tokens)
        try:
            answer = await self._client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": _WORDS}],
                response_format=form,
                temperature=question.temperature,
                seed=self._options.seed,
                max_tokens=question.max_tokens,
            )
        except BadRequestError as error:
            return msgspec.structs.replace(outcome, refused=error.message, code=error.code)
        choice = answer.choices[0]
        text = choice.message.content or ""
        problem = problem_of(case.schema, text) if choice.finish_reason == "stop" else None
        tokens = answer.usage.completion_tokens if answer.usage else 0
        return msgspec.structs.replace(outcome, tokens=tokens, text=text, reason=choice.finish_reason, problem=problem)


def problem_of(schema: Any, text: str) -> str | None:
    """Return why ``text`` is not JSON that satisfies ``schema``, None if it is."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    kind = validator_for(schema, default=Draft202012Validator)
    error = next(iter(kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(value)), None)
    return None if error is None else f"{error.json_path}: {error.message[:300]} ({error.validator})"


def keyword_of(message: str) -> str:
    """Return the keyword that a refusal names, or the reason that it gives."""
    words = message.partition("Invalid schema for response_format 'example': ")[2]
    named = _QUOTED.match(words)
    return named[1] if named else words[:60]


def is_defect(outcome: Outcome) -> bool:
    """Whether a complete answer does not validate, or a refusal names neither keyword nor reason."""
    is_refused = outcome.refused is not None and outcome.code != _NO_ROOM
    return outcome.problem is not None or (is_refused and not keyword_of(outcome.refused or ""))


def report(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> str:
    """Return the figures as text, the higher temperature first."""
    asked = [outcome for outcome in outcomes if outcome.code != _NO_ROOM]
    lines: list[str] = []
    for temperature in sorted({outcome.temperature for outcome in asked}, reverse=True):
        lines += _figures([o for o in asked if o.temperature == temperature], len(cases))
    refusals = {o.name: o.refused for o in asked if o.refused is not None}
    named = Counter(map(keyword_of, refusals.values()))
    return "\n".join([*lines, "refused by:", *(f"  {count:3} {keyword}" for keyword, count in named.most_common())])


def _figures(outcomes: Sequence[Outcome], num_cases: int) -> list[str]:
    latest = {o.name: o for o in sorted(outcomes, key=lambda o: o.max_tokens)}
    num_refused = sum(o.refused is not None for o in latest.values())
    complete = [o for o in latest.values() if o.reason == "stop"]
    invalid = [o for o in complete if o.problem]
    cut = Counter(o.max_tokens for o in outcomes if o.reason == "length")
    head = f"temperature {outcomes[0].temperature:g}: {len(latest)} of {num_cases} schemas asked"
    tokens = sum(o.tokens for o in complete)
    return [
        f"{head}, {len(latest) - num_refused} accepted, {num_refused} refused",
        f"  complete {len(complete)}, of them valid {len(complete) - len(invalid)}, {tokens} tokens",
        *(f"  cut at {max_tokens} tokens: {count}" for max_tokens, count in sorted(cut.items())),
        *(f"  still cut: {o.name}" for o in latest.values() if o.reason == "length"),
        *(f"  NOT VALID {o.name}: {o.problem}" for o in invalid),
    ]


def mask_times(metrics: str) -> str:
    """Return the engine's time per mask as text, from ``/metrics``."""
    buckets: dict[float, float] = {}
    for bound, count in _MASK_BUCKET.findall(metrics):
        buckets[float(bound)] = buckets.get(float(bound), 0.0) + float(count)
    total = max(buckets.values(), default=0.0)
    if not total:
        return "no mask was needed"
    within = [min(bound for bound, count in buckets.items() if count >= share * total) for share in (0.5, 0.99)]
    return f"masks: {total:.0f}, half of them within {within[0] * 1e6:g} us, 99 % within {within[1] * 1e6:g} us"


def _read(journal: Path) -> list[Outcome]:
    if not journal.exists():
        return []
    return [msgspec.json.decode(line, type=Outcome) for line in journal.read_bytes().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
