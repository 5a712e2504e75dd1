"""The journal under faults: whatever is torn, each request is there once or is made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from antiphon.toolkit.bulk.batchfile import Request, Result
from antiphon.toolkit.bulk.journal import Journal
from antiphon.toolkit.errors import JournalError, OutputError

pytestmark = pytest.mark.anyio


def request(number: int) -> Request:
    return Request.chat(f"item-{number}", f"say {number} é", model="m")


def result(number: int, status: int = 200) -> Result:
    return Result(f"item-{number}", status, "req_1", {"n": number})


async def filled(out: Path, count: int) -> None:
    with Journal(out) as journal:
        for number in range(count):
            await journal.append((request(number), result(number)))


def lines(out: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in out.read_text().splitlines()]


async def test_a_journal_cut_at_any_byte_resumes(tmp_path: Path) -> None:
    """For lengths that a kill may leave, around every seam: whole rows stand, a torn one is made again, the output has each once."""
    await filled(tmp_path / "whole.jsonl", 4)
    whole = (tmp_path / "whole.jsonl.journal").read_bytes()
    ids = [request(n).custom_id for n in range(4)]
    seams = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    near_seams = {length for seam in seams for length in (seam - 1, seam, seam + 1, seam + 2)}
    for length in sorted({*range(0, len(whole) + 1, 13), *near_seams, len(whole)}):
        out = tmp_path / f"{length}.jsonl"
        journal_file = tmp_path / f"{length}.jsonl.journal"
        journal_file.write_bytes(whole[:length])
        with Journal(out) as journal:
            missing = [n for n in range(4) if not journal.is_done(request(n), retry_failed=False)]
            assert len(missing) == 4 - whole[:length].count(b"\n")
            for number in missing:
                await journal.append((request(number), result(number)))
            journal.write_out(ids)
        assert lines(out) == ids
        assert len(journal_file.read_bytes().splitlines()) == 4


async def test_the_output_is_in_the_order_of_the_requests(tmp_path: Path) -> None:
    """Answers come in any order; the file does not show it."""
    with Journal(tmp_path / "o.jsonl") as journal:
        for number in (2, 0, 1):
            await journal.append((request(number), result(number)))
        journal.write_out(["item-0", "item-1", "item-2"])
    assert lines(tmp_path / "o.jsonl") == ["item-0", "item-1", "item-2"]


async def test_a_failed_request_is_retried_when_asked(tmp_path: Path) -> None:
    """A failed row stands for a finished request, unless the user wants it again; then the last row counts."""
    with Journal(tmp_path / "o.jsonl") as journal:
        await journal.append((request(0), result(0, 500)))
        assert journal.is_done(request(0), retry_failed=False)
        assert not journal.is_done(request(0), retry_failed=True)
        await journal.append((request(0), result(0)))
    with Journal(tmp_path / "o.jsonl") as journal:
        assert journal.is_done(request(0), retry_failed=True)


async def test_a_changed_request_is_noticed(tmp_path: Path) -> None:
    """An answer to another content under the same id is never passed off as this one's."""
    await filled(tmp_path / "o.jsonl", 1)
    with Journal(tmp_path / "o.jsonl") as journal, pytest.raises(JournalError, match="'item-0' is not the one"):
        journal.is_done(Request.chat("item-0", "something else", model="m"), retry_failed=False)


async def test_two_runs_never_share_an_output(tmp_path: Path) -> None:
    """The second run of the same output is refused while the first is open, and only then."""
    with Journal(tmp_path / "o.jsonl"), pytest.raises(JournalError, match="Another run"), Journal(tmp_path / "o.jsonl"):
        pass
    with Journal(tmp_path / "o.jsonl"):
        pass


async def test_a_foreign_output_is_not_overwritten(tmp_path: Path) -> None:
    """A file that no journal belongs to stays as it is."""
    (tmp_path / "o.jsonl").write_text("precious")
    with pytest.raises(JournalError, match="exists"), Journal(tmp_path / "o.jsonl"):
        pass
    assert (tmp_path / "o.jsonl").read_text() == "precious"


async def test_an_unreadable_row_is_named(tmp_path: Path) -> None:
    """A row that is whole and no record means another hand: say which, guess nothing."""
    await filled(tmp_path / "o.jsonl", 1)
    with (tmp_path / "o.jsonl.journal").open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(JournalError, match="Row 2"), Journal(tmp_path / "o.jsonl"):
        pass


@pytest.mark.parametrize(
    "body", [{}, {"choices": None}, {"choices": []}, {"choices": [{"message": None}]}, "text", [1]]
)
def test_an_answer_without_an_answer_is_an_output_error(body: object) -> None:
    """A server may answer 200 with anything; the result names its request."""
    result = Result("a", 200, body=body)
    with pytest.raises(OutputError, match="'a' has no text"):
        _ = result.text
    with pytest.raises(OutputError, match="'a' has no vectors"):
        _ = result.vectors


@pytest.mark.parametrize(("output", "text", "value"), [(list[int], '{"value": [1]}', [1]), (int, '{"value": 3}', 3)])
def test_a_request_asks_for_any_type(output: Any, text: str, value: object) -> None:
    """And its result is read as that type."""
    request = Request.parse("a", output, "x", model="m")
    assert request.body["response_format"]["json_schema"]["strict"] is True
    result = Result("a", 200, body={"choices": [{"message": {"content": text}}]})
    assert result.parsed(output) == value
    with pytest.raises(OutputError, match="is not of the type"):
        Result("a", 200, body={"choices": [{"message": {"content": "no"}}]}).parsed(output)
