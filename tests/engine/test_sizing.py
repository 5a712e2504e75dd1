"""What is chosen where the settings leave a size open."""

from pathlib import Path

import msgspec
import pytest

from antiphon.engine import EngineSettings, EngineStartFailed
from antiphon.engine.model.sizing import Machine, ModelFacts, choose_for_embedding, choose_for_generation
from antiphon.errors import ConfigError

GIB = 2**30
SMALL = ModelFacts(training_context=8192, kv_values_k=5760, kv_values_v=5760, has_state=False)
LARGE = ModelFacts(training_context=131072, kv_values_k=32768, kv_values_v=32768, has_state=False)
MACHINE = Machine(cores=4, free_bytes=16 * GIB)


def settings(**given: object) -> EngineSettings:
    return EngineSettings(model_path=Path("model.gguf"), **given)  # pyright: ignore[reportArgumentType]


def test_a_small_model_gets_its_whole_context() -> None:
    """The context is the model's own, and there are cells for more than one."""
    sizes = choose_for_generation(settings(), SMALL, MACHINE)
    assert sizes.context_size == 8192
    assert sizes.cells > 8192
    assert (sizes.threads, sizes.flash_attention, sizes.notes) == (4, True, ())


def test_a_context_that_does_not_fit_is_smaller_and_noted() -> None:
    """Where memory does not hold the model's own context, the one that fits is taken and named in a note."""
    sizes = choose_for_generation(settings(), LARGE, MACHINE)
    assert sizes.context_size < 131072
    assert sizes.kv_bytes < 16 * GIB
    assert str(sizes.context_size) in sizes.notes[0]


def test_what_the_user_set_is_never_made_smaller() -> None:
    """A context that was asked for and does not fit fails, with one that would."""
    with pytest.raises(EngineStartFailed) as caught:
        choose_for_generation(settings(context_size=131072), LARGE, MACHINE)
    assert "context_size" in caught.value.hint
    with pytest.raises(EngineStartFailed, match="cache_size 100"):
        choose_for_generation(settings(cache_size=100), SMALL, MACHINE)


def test_quantised_values_need_flash_attention() -> None:
    """Flash attention is on, for a quantised value cache too, but a user's setting prevails."""
    assert choose_for_generation(settings(kv_type_v="q8_0"), SMALL, MACHINE).flash_attention
    assert not choose_for_generation(settings(flash_attention=False), SMALL, MACHINE).flash_attention


def test_an_embedding_model_takes_an_input_in_one_batch() -> None:
    """Attention without causality needs the whole input in one micro-batch."""
    facts = ModelFacts(training_context=2048, kv_values_k=0, kv_values_v=0, has_state=False)
    sizes = choose_for_embedding(settings(), facts, MACHINE)
    assert sizes.batch_size == sizes.micro_batch_size == 2048
    assert sizes.flash_attention


def test_states_of_recurrent_layers_count_as_memory() -> None:
    """What the states of all sequences take is not there for cells; states that alone do not fit are refused."""
    facts = msgspec.structs.replace(LARGE, has_state=True, state_bytes=GIB // 8)
    sizes = choose_for_generation(settings(num_sequences=32), facts, MACHINE)
    assert sizes.context_size < choose_for_generation(settings(), LARGE, MACHINE).context_size
    assert 4 * GIB < sizes.kv_bytes < 10 * GIB
    with pytest.raises(EngineStartFailed) as caught:
        choose_for_generation(settings(num_sequences=128), facts, MACHINE)
    assert "num_sequences" in caught.value.hint


@pytest.mark.parametrize(
    "given", [{"threads": 0}, {"num_sequences": 1000}, {"context_size": -5}, {"step_timeout_s": 0}]
)
def test_values_out_of_range_name_the_setting(given: dict[str, int]) -> None:
    """A setting that cannot be is refused where it is made."""
    with pytest.raises(ConfigError, match=next(iter(given))):
        settings(**given)


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, (4, 4)),
        ({"threads": 2}, (2, 2)),
        ({"batch_threads": 2}, (4, 2)),
        ({"threads": 1, "batch_threads": 3}, (1, 3)),
    ],
)
def test_prompts_are_computed_by_as_many_threads_as_are_set(given: dict[str, int], threads: tuple[int, int]) -> None:
    """``threads`` alone sets both numbers."""
    sizes = choose_for_generation(settings(**given), SMALL, MACHINE)
    assert (sizes.threads, sizes.batch_threads) == threads
