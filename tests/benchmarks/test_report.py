import pytest
from benchmarks.measuring import Sample
from benchmarks.report import Footprint, chart, footprint_table, markdown, rows
from benchmarks.workloads import WORKLOADS


def sample(contender: str, number: int, *, disturbed: bool = False, **values: float) -> Sample:
    return Sample("long-prompt", contender, number, values, 0.0, disturbed)


SAMPLES = [
    sample("antiphon", 0, ttft=1.0, long_ttft=8.0),
    sample("antiphon", 1, ttft=2.0, long_ttft=9.0, disturbed=True),
    sample("antiphon", 2, ttft=1.0, long_ttft=8.0),
    sample("llama-server", 0, ttft=20.0, long_ttft=20.0),
    sample("llama-server", 1, ttft=24.0, long_ttft=24.0),
    Sample("long-prompt", "llama-server", 2, None, 0.0, disturbed=False, error="it broke"),
]


def test_a_ratio_is_the_median_over_rounds_that_both_finished() -> None:
    """Rounds are compared with themselves, since the machine's speed drifts; a failed run is in none."""
    ttft, long_ttft = rows(WORKLOADS, SAMPLES)
    assert ttft.medians == {"antiphon": 1.0, "llama-server": 22.0}
    assert ttft.ratios == {"llama-server": pytest.approx(16.0)}
    assert long_ttft.ratios["llama-server"] > 1
    assert ttft.disturbed == 1


def test_more_is_better_where_it_is_a_throughput() -> None:
    """Above one always means that we are better."""
    embed = [
        Sample("embeddings", n, 0, {"throughput": v}, 0.0, disturbed=False)
        for n, v in (("antiphon", 300.0), ("llama-server", 200.0))
    ]
    (row,) = rows(WORKLOADS, embed)
    assert row.ratios == {"llama-server": pytest.approx(1.5)}


def test_the_table_and_the_plot_show_every_goal() -> None:
    """The plot shows goals and results side by side."""
    table = rows(WORKLOADS, SAMPLES)
    assert "**16.00x**" in markdown(table)
    assert "4x / 20x" in markdown(table)
    assert "16.0x" in chart(table)
    assert chart(table).count("<rect") == 2


def test_no_samples_no_rows() -> None:
    """A run in which everything failed says so by an empty table."""
    assert rows(WORKLOADS, []) == []


def test_the_cache_stands_beside_the_peak_of_memory() -> None:
    """The table shows the KV cache's bytes and the peak of resident memory; an unknown value is a dash, not a zero."""
    reported = Footprint("antiphon", "chat", 2.5, 360 << 20, 800 << 20)
    unreported = Footprint("other", "embedding", 1.0, None, 90 << 20)
    assert footprint_table([reported, unreported]).splitlines()[2:] == [
        "| antiphon | chat | 2.5 | 360 | 800 |",
        "| other | embedding | 1 | - | 90 |",
    ]
