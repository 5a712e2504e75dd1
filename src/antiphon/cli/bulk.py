"""``antiphon bulk``: a file of requests in, a file of answers out."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from antiphon.cli.connection import Server
from antiphon.cli.output import print_json
from antiphon.errors import AntiphonError
from antiphon.toolkit.bulk import BulkReport
from antiphon.toolkit.bulk import run as run_requests
from antiphon.toolkit.bulk.progress import describe


def bulk(
    requests: Annotated[Path, Parameter(help="File of requests, one per line.")],
    out: Annotated[Path, Parameter(help="File for the answers, in the order of the requests.")],
    /,
    *,
    rpm: Annotated[int | None, Parameter(help="Requests per minute. [default: what the server reports]")] = None,
    tpm: Annotated[int | None, Parameter(help="Tokens per minute. [default: what the server reports]")] = None,
    concurrency: Annotated[int, Parameter(help="Requests in flight at the same time.")] = 16,
    retry_failed: Annotated[
        bool, Parameter(negative="", help="Repeat the requests that failed in an earlier run.")
    ] = False,
    batch: Annotated[
        bool, Parameter(negative="", help="Send them as batches: answered within a day, at half the price.")
    ] = False,
    flex: Annotated[
        bool, Parameter(negative="", help="Ask for the service tier flex: half the price, slow, at times without room.")
    ] = False,
    rest_now: Annotated[
        bool,
        Parameter(negative="", help="With --batch or --flex: make what they did not answer as normal calls."),
    ] = False,
    wait: Annotated[
        bool, Parameter(help="With --batch: wait for the answers; the same command later takes them.")
    ] = True,
    json: Annotated[bool, Parameter(negative="", help="Print the report as one JSON object.")] = False,
    server: Server | None = None,
) -> int:
    """Send every request of a batch file within the rate limits; run again, it continues where it stopped.

    Files are in the format of OpenAI's batch interface. Exit status 3 if requests failed: their lines say why.
    """
    if batch and flex:
        raise AntiphonError("--batch and --flex are two ways", hint="leave out one of them")
    if rest_now and not (batch or flex):
        raise AntiphonError("--rest-now without --batch or --flex", hint="normal calls leave no rest")
    if not wait and not batch:
        raise AntiphonError("--no-wait without --batch", hint="only batches are answered later")
    with (server or Server()).client() as client:
        report = run_requests(
            requests,
            out,
            client=client,
            rpm=rpm,
            tpm=tpm,
            concurrency=concurrency,
            retry_failed=retry_failed,
            progress=sys.stderr.isatty(),
            via="batch" if batch else "flex" if flex else "calls",
            rest="now" if rest_now else "fail",
            wait=wait,
        )
    _show(report, as_json=json)
    return 0 if report.is_ok else 3


def _show(report: BulkReport, *, as_json: bool) -> None:
    now = report.statistics
    if as_json:
        print_json({"out": report.out, "statistics": now})
        return
    print(
        f"{report.out}: {now.num_done} of {now.num_requests} requests, {now.num_resumed} from an earlier run; {describe(now)}"
    )
    if now.pacer.rpm or now.pacer.tpm:
        print(f"limits in force: {now.pacer.rpm or 'no'} requests and {now.pacer.tpm or 'no'} tokens a minute")
    if report.is_pending:
        print(f"{now.num_pending} of the requests are in batches under way; the same command later takes the answers")
    if not report.is_ok:
        earlier = f" and {now.num_failed_before} in an earlier run" if now.num_failed_before else ""
        print(
            f"antiphon: {now.num_failed} requests failed{earlier} - antiphon bulk ... --retry-failed makes them again",
            file=sys.stderr,
        )
