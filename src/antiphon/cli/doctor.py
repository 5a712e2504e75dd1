"""``antiphon doctor``: what is wrong, and the command that fixes it."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from antiphon.cli.output import print_json
from antiphon.errors import AntiphonError
from antiphon.toolkit.doctor import Diagnosis, examine, explain_answer

_MARKS = {
    "ok": ("ok  ", "green"),
    "warning": ("warn", "yellow"),
    "problem": ("FAIL", "bold red"),
    "skipped": ("skip", "dim"),
}


def doctor(
    *,
    model: Annotated[str | None, Parameter(help="Also make one short call to this model.")] = None,
    answer: Annotated[
        Path | None, Parameter(help="File with an answer (JSON of a chat completion): explain why it ended.")
    ] = None,
    max_tokens: Annotated[int | None, Parameter(help="With --answer: the max_tokens of the request.")] = None,
    base_url: Annotated[str | None, Parameter(help="Base URL of the API. [default: OPENAI_BASE_URL]")] = None,
    api_key: Annotated[str | None, Parameter(help="API key to send. [default: OPENAI_API_KEY]")] = None,
    timeout: Annotated[float, Parameter(help="Seconds to wait for each check.")] = 10.0,
    json: Annotated[bool, Parameter(negative="", help="Print the findings as one JSON object.")] = False,
) -> int:
    """Find what is wrong with key, URL, network, server, model or limits, and the command that fixes it.

    Examined is what the official client would use here. Exit status 1 if something keeps calls from working.
    """
    if timeout <= 0:
        raise AntiphonError(f"--timeout is {timeout:g}", hint="write seconds, more than 0")
    if answer is None and max_tokens is not None:
        raise AntiphonError("--max-tokens belongs to --answer", hint="name the file of the answer")
    if answer is not None and not (model is None and base_url is None and api_key is None):
        raise AntiphonError("--answer asks no server", hint="leave out --model, --base-url and --api-key")
    if answer is not None:
        diagnosis = Diagnosis((explain_answer(_read(answer), max_tokens=max_tokens),))
    else:
        diagnosis = examine(base_url=base_url, api_key=api_key, model=model, timeout_s=timeout)
    if json:
        print_json({"healthy": diagnosis.is_healthy, "findings": diagnosis.findings})
    else:
        _show(diagnosis)
    return 0 if diagnosis.is_healthy else 1


def _show(diagnosis: Diagnosis) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for finding in diagnosis.findings:
        mark, style = _MARKS[finding.status]
        console.print(Text(mark, style), Text(f"{finding.check:<10}"), Text(finding.message))
        if finding.fix and finding.status != "ok":
            console.print(Text(f"     {'':<10} fix: {finding.fix}", "cyan"))


def _read(path: Path) -> dict[str, object]:
    try:
        return dict(jsonlib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise AntiphonError(f"cannot read the answer {str(path)!r}: {error.strerror}", hint="check the path") from error
    except (ValueError, TypeError) as error:
        hint = "save the completion with .to_json()"
        raise AntiphonError(f"cannot read the answer {str(path)!r}: {error}", hint=hint) from error
