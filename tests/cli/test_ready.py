"""What ``antiphon serve`` says when it is ready."""

import pytest

from antiphon.cli.ready import engine_line, native_gain, warnings

MEASURED = "as-is: 98 MB, KL divergence 0.0031 nats; q8_0 with OpenVINO: 3.9 times as fast (8.7 for prompt), 145 MB instead of 98, KL divergence 0.0055 nats"
FAILED = "not measured: the process exited with status 1 while converting it: no space"
SETTINGS = {
    "runtime": "openvino",
    "weight_format": "q8_0",
    "weight_format_reason": MEASURED,
    "context_size": "8192",
    "cells": "16640",
    "num_sequences": "32",
    "threads": "2",
    "library": "xllamacpp 2026.10",
    "unused_instruction_sets": "AVX512 AVX512_BF16",
    "started_after": "",
    "notes": "",
    "draft_model": "",
}


def test_a_model_takes_one_line_without_what_was_measured() -> None:
    """The line says what computes, from which weights, and how much fits; figures are left to `antiphon engine show`."""
    said = engine_line(SETTINGS)
    assert said == "OpenVINO, weights as q8_0, context of 8,192 tokens, 16,640 KV cells, 32 sequences, 2 threads"
    assert warnings(SETTINGS) == []
    by_llama = engine_line(SETTINGS | {"runtime": "llama", "weight_format": "as-is", "draft_model": "tiny.gguf"})
    assert by_llama.startswith("llama.cpp (xllamacpp 2026.10), the file's weights, ")
    assert by_llama.endswith(", drafts by tiny.gguf")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"weight_format_reason": FAILED},
            f"served from the file as it is, which may be several times slower; {FAILED}",
        ),
        (
            {"weight_format_reason": f"{MEASURED}; bf16: left out, the process was killed by SIGILL"},
            "bf16: left out, the process was killed by SIGILL",
        ),
        (
            {"weight_format_reason": f"{MEASURED}; llama.cpp and not OpenVINO: it does not know the model"},
            "llama.cpp and not OpenVINO: it does not know the model",
        ),
        ({"started_after": "SIGILL with extra buffers"}, "SIGILL with extra buffers"),
        ({"notes": "fewer cells than asked for"}, "fewer cells than asked for"),
    ],
)
def test_what_did_not_go_as_it_should_is_said(settings: dict[str, str], expected: str) -> None:
    """A model that could not be measured, a way that failed, and a reason for a runtime have a line of their own."""
    assert warnings(SETTINGS | settings) == [expected]


def test_a_native_build_is_offered_where_llama_computes() -> None:
    """The line says what is unused, what it brings and what it takes; OpenVINO uses the processor as it is."""
    assert native_gain([SETTINGS]) == ""
    said = native_gain([SETTINGS, SETTINGS | {"runtime": "llama"}])
    assert "AVX512, AVX512_BF16" in said
    assert "needs a C++ compiler" in said
    assert native_gain([SETTINGS | {"runtime": "llama", "unused_instruction_sets": ""}]) == ""
