"""``python -m benchmarks``: Antiphon and the installed peers, side by side in one run."""

import argparse
import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress
from http import HTTPStatus
from pathlib import Path

import gguf
import msgspec

from antiphon.models import Catalogue, ModelStore, read_header
from benchmarks import machine
from benchmarks.arguments import at_least_one, existing_file
from benchmarks.contenders import Contender, Task, contenders
from benchmarks.measuring import Plan, Sample, measure
from benchmarks.report import Footprint, chart, footprint_table, markdown, rows
from benchmarks.serving import Server, running
from benchmarks.soak import soak
from benchmarks.workloads import WORKLOADS, Run, warm_up

_END_TEXTS = {"</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>"}


def main() -> int:
    """Run the chosen workloads; exit with 1 if nothing could be measured."""
    options = _options()
    known = contenders(options.peers_python, options.vllm_python, options.antiphon_option, options.out)
    if unknown := set(options.contenders or ()) - {c.name for c in known}:
        sys.exit(f"Unknown contender: {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in known)}.")
    wanted = [c for c in known if not options.contenders or c.name in options.contenders]
    for contender in wanted:
        if reason := contender.missing():
            print(f"{contender.name} is left out: {reason}", file=sys.stderr)
    present = [c for c in wanted if not c.missing()]
    if not present:
        sys.exit("Nothing is there to measure.")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.soak:
        return asyncio.run(soak(present[0], _model("chat", options), options, _end_tokens(_model("chat", options))))
    samples: list[Sample] = []
    footprints: list[Footprint] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no server may outlive the bench
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(_run(present, options, samples, footprints))
    finally:  # whatever ended it, what was measured until then is written
        _write(samples, footprints, options)
    return 0 if any(sample.values for sample in samples) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--only", action="append", choices=names, help="a workload; may be repeated [default: all]")
    parser.add_argument(
        "--contender", action="append", dest="contenders", help="a server; may be repeated [default: all]"
    )
    parser.add_argument("--rounds", type=at_least_one, default=3, help="runs of each workload per server [default: 3]")
    parser.add_argument(
        "--threads", type=at_least_one, default=machine.describe()["cores"], help="[default: the cores]"
    )
    parser.add_argument("--model", type=existing_file, help="chat model, a GGUF file [default: Antiphon's]")
    parser.add_argument(
        "--embedding-model", type=existing_file, help="embedding model, a GGUF file [default: Antiphon's]"
    )
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the peers [default: this]")
    vllm_python = os.environ.get("VLLM_PYTHON", sys.executable)
    parser.add_argument("--vllm-python", default=vllm_python, help="interpreter that has vLLM [default: $VLLM_PYTHON]")
    parser.add_argument("--antiphon-option", action="append", default=[], help="passed to `antiphon serve`")
    parser.add_argument("--tolerance", type=float, default=0.15, help="cores others may use in a run [default: 0.15]")
    parser.add_argument("--retries", type=int, default=2, help="repetitions of a disturbed run [default: 2]")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a run has failed [default: 600]")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="instead: random load, watching memory")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for results and logs")
    return parser.parse_args()


async def _run(
    present: list[Contender], options: argparse.Namespace, samples: list[Sample], footprints: list[Footprint]
) -> None:
    """Run every workload; add each result to ``samples`` and ``footprints`` as soon as it is measured."""
    tasks: tuple[Task, ...] = ("chat", "embedding")
    for task in tasks:
        workloads = [w for w in WORKLOADS if w.task == task and (not options.only or w.name in options.only)]
        able = [c for c in present if task in c.tasks]
        if not workloads or not able:
            continue
        model = _model(task, options)
        end_tokens = _end_tokens(model) if task == "chat" else []
        plan = Plan(options.rounds, options.tolerance, options.retries, options.limit, end_tokens)
        async with AsyncExitStack() as stack:
            servers: list[Server] = []
            for contender in able:
                server = await stack.enter_async_context(running(contender, task, model, options.threads, options.out))
                print(f"{server.name} is ready after {server.start_s:.1f} s", file=sys.stderr)
                await warm_up(Run(server.client, "warm-up", end_tokens), task)
                servers.append(server)
            for workload in workloads:
                await measure(workload, servers, plan, _say, samples)
            footprints += [await _footprint(c, task, model, server) for c, server in zip(able, servers, strict=True)]


async def _footprint(contender: Contender, task: Task, model: Path, server: Server) -> Footprint:
    status, metrics = await server.client.get("/metrics")
    kv_bytes = contender.kv_bytes(model, metrics.decode() if status == HTTPStatus.OK else "")
    return Footprint(contender.name, task, server.start_s, kv_bytes, machine.peak_rss_bytes(server.pid))


def _say(sample: Sample) -> None:
    values = sample.error or ", ".join(f"{name} {value:.4g}" for name, value in (sample.values or {}).items())
    note = f"  (disturbed: others had {sample.others_cores:.2f} cores)" if sample.disturbed else ""
    print(f"round {sample.round + 1}  {sample.workload:14} {sample.contender:17} {values}{note}", file=sys.stderr)


def _model(task: Task, options: argparse.Namespace) -> Path:
    given = options.model if task == "chat" else options.embedding_model
    return given or ModelStore().ensure(Catalogue.default().default_of(task))


def _end_tokens(model: Path) -> list[int]:
    """Return the tokens that end an answer, to forbid them: every answer then has the same length."""
    fields = gguf.GGUFReader(model).fields
    texts = fields["tokenizer.ggml.tokens"].contents()
    named = {i for i, text in enumerate(texts) if text in _END_TEXTS}
    stated = (read_header(model).metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot"))
    return sorted(named | {int(i) for i in stated if i is not None})


def _write(samples: list[Sample], footprints: list[Footprint], options: argparse.Namespace) -> None:
    table = rows(WORKLOADS, samples)
    result = {
        "machine": machine.describe(),
        "threads": options.threads,
        "rounds": options.rounds,
        "taken_at": int(time.time()),
        "rows": table,
        "footprints": footprints,
        "samples": samples,
    }
    stem = options.out / time.strftime("%Y-%m-%d-%H%M%S")
    stem.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    stem.with_suffix(".svg").write_text(chart(table))
    print(", ".join(f"{key} {value}" for key, value in machine.describe().items()), end="\n\n")
    print(markdown(table))
    print()
    print(footprint_table(footprints))
    print(f"Written: {stem}.json, {stem}.svg", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
