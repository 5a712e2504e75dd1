"""How one model is run: what is no sensible value is refused by its name."""

from pathlib import Path
from typing import Any

import pytest

from antiphon.engine.settings import EngineSettings, from_json, to_json
from antiphon.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("context_size", 0),
        ("threads", -1),
        ("max_queue", 0),
        ("gpu_layers", -1),
        ("num_sequences", 129),
        ("draft_tokens", 33),
        ("draft_tokens", -1),
        ("step_timeout_s", 0.0),
        ("layout", "q8_0"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    """The message names the setting and what was given."""
    with pytest.raises(ConfigError, match=rf"{name}.*{value}"):
        EngineSettings(model_path=Path("m.gguf"), **{name: value})


def test_settings_reach_the_process_as_they_are() -> None:
    """What is written for the process is read there as the same."""
    settings = EngineSettings(model_path=Path("/m.gguf"), gpu_layers=0, cache_directory=Path("/c"), layout="bf16")
    assert from_json(to_json(settings)) == settings
