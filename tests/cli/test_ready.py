"""What ``antiphon serve`` says when it is ready."""

import pytest

from antiphon.cli.ready import engine_line, native_gain, remarks

SETTINGS = {
    "runtime": "openvino",
    "weight_format": "q8_0",
    "weight_format_remarks": "",
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
    assert remarks(SETTINGS) == []
    by_llama = engine_line(SETTINGS | {"runtime": "llama", "weight_format": "as-is", "draft_model": "tiny.gguf"})
    assert by_llama.startswith("llama.cpp (xllamacpp 2026.10), the file's weights, ")
    assert by_llama.endswith(", drafts by tiny.gguf")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"weight_format_remarks": "not measured, so ...: no space left"}, "not measured, so ...: no space left"),
        ({"started_after": "SIGILL with extra buffers"}, "started after SIGILL with extra buffers"),
        ({"notes": "fewer cells than asked for"}, "fewer cells than asked for"),
    ],
)
def test_what_did_not_go_as_it_should_is_said(settings: dict[str, str], expected: str) -> None:
    """A model that could not be measured, a way that failed, and a reason for sizes have a line of their own."""
    assert remarks(SETTINGS | settings) == [expected]


def test_a_native_build_is_offered_where_llama_computes() -> None:
    """The line says what is unused, what it brings and what it takes; OpenVINO uses the processor as it is."""
    assert native_gain([SETTINGS]) == ""
    said = native_gain([SETTINGS, SETTINGS | {"runtime": "llama"}])
    assert "AVX512, AVX512_BF16" in said
    assert "needs a C++ compiler" in said
    assert native_gain([SETTINGS | {"runtime": "llama", "unused_instruction_sets": ""}]) == ""
