"""From samples to tables, JSON and a plot."""

from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from benchmarks.contenders import Task
from benchmarks.measuring import Sample
from benchmarks.workloads import Measure, Workload

OURS = "antiphon"
REFERENCE = "llama-server"


class Row(msgspec.Struct, frozen=True):
    """One measure: the median per contender, and how many times better than each peer Antiphon is (median over rounds)."""

    workload: str
    title: str
    measure: Measure
    medians: dict[str, float]
    ratios: dict[str, float]
    disturbed: int


class Footprint(msgspec.Struct, frozen=True):
    """A server's footprint: seconds until ready, and bytes.

    ``kv_bytes`` are allocated for keys and values, part of them perhaps never touched; None if the server does not report it.
    ``peak_rss_bytes`` is the sum of all its processes' peaks of resident memory.
    """

    contender: str
    task: Task
    start_s: float
    kv_bytes: int | None
    peak_rss_bytes: int


def rows(workloads: Iterable[Workload], samples: Sequence[Sample]) -> list[Row]:
    """Return a row per measure that at least one contender has a value for."""
    table: list[Row] = []
    for workload in workloads:
        of_workload = [s for s in samples if s.workload == workload.name and s.values]
        for measure in workload.measures:
            values: dict[str, dict[int, float]] = {}
            for sample in of_workload:
                assert sample.values is not None
                values.setdefault(sample.contender, {})[sample.round] = sample.values[measure.name]
            if values:
                medians = {name: median(rounds.values()) for name, rounds in values.items()}
                disturbed = sum(s.disturbed for s in of_workload)
                table.append(Row(workload.name, workload.title, measure, medians, _ratios(measure, values), disturbed))
    return table


def _ratios(measure: Measure, values: dict[str, dict[int, float]]) -> dict[str, float]:
    ours = values.get(OURS, {})
    ratios: dict[str, float] = {}
    for name, theirs in values.items():
        both = [n for n in ours if n in theirs]
        if name != OURS and both:
            better = (ours[n] / theirs[n] if measure.higher_is_better else theirs[n] / ours[n] for n in both)
            ratios[name] = median(better)
    return ratios


def markdown(table: Sequence[Row]) -> str:
    """Return the table as Markdown: medians, and in bold how many times better Antiphon is."""
    names = list(dict.fromkeys(name for row in table for name in (OURS, *row.medians) if name in row.medians))
    peers = [name for name in names if name != OURS]
    head = ["workload", "measure", *names, *(f"against {peer}" for peer in peers), "must / aim"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in table:
        cells = [row.title, f"{row.measure.name}, {row.measure.unit}"]
        cells += [_number(row.medians.get(name)) for name in names]
        cells += [f"**{row.ratios[peer]:.2f}x**" if peer in row.ratios else "-" for peer in peers]
        cells.append(f"{row.measure.must:g}x / {row.measure.aim:g}x" if row.measure.must and row.measure.aim else "-")
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def footprint_table(footprints: Sequence[Footprint]) -> str:
    """Return the table of memory and start times as Markdown, in MiB and seconds."""
    lines = ["server | task | ready after, s | KV cache, MiB | peak memory, MiB", " | ".join(["---"] * 5)]
    for taken in footprints:
        kv_mib = None if taken.kv_bytes is None else taken.kv_bytes / 2**20
        numbers = (taken.start_s, kv_mib, taken.peak_rss_bytes / 2**20)
        lines.append(" | ".join([taken.contender, taken.task, *map(_number, numbers)]))
    return "\n".join(f"| {line} |" for line in lines)


def chart(table: Sequence[Row]) -> str:
    """Return an SVG with a bar per measure that has a goal: how many times better than the reference Antiphon is."""
    bars = [row for row in table if row.measure.must and REFERENCE in row.ratios]
    left, width, step = 430, 420, 34
    scale = width / max([row.ratios[REFERENCE] for row in bars] + [1.5])
    height = step * len(bars) + 50
    size = f'width="{left + width + 80}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="10" y="20">Times better than {REFERENCE} (line: equal)</text>',
    ]
    for number, row in enumerate(bars):
        top, ratio = 34 + number * step, row.ratios[REFERENCE]
        colour = "#2b7a4b" if ratio >= 1 else "#a33b2b"
        parts.append(f'<text x="10" y="{top + 15}">{_escaped(f"{row.title} ({row.measure.name})")}</text>')
        parts.append(f'<rect x="{left}" y="{top}" width="{ratio * scale:.1f}" height="20" fill="{colour}"/>')
        parts.append(f'<text x="{left + ratio * scale + 6:.1f}" y="{top + 15}">{ratio:.1f}x</text>')
    line = left + scale
    parts.append(
        f'<line x1="{line:.1f}" y1="30" x2="{line:.1f}" y2="{height - 14}" stroke="#444" stroke-dasharray="4 3"/>'
    )
    return "\n".join([*parts, "</svg>\n"])


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
