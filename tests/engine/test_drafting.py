"""A draft model: what it proposes, when, and that it changes nothing but the number of steps."""

from collections import Counter

import numpy as np
import pytest
from tests.engine.loop_world import GREEDY, SHAPES, World, drafted
from tests.engine.plain_engine import DATA, TEXT, Alternation, PlainContext, SmallContext, logits_after

from antiphon.engine.ipc.messages import Delta, Generate, SamplingParams
from antiphon.engine.scheduling.sequence import Sequence
from antiphon.engine.steps.batch_loop import CancelTask
from antiphon.engine.steps.loop import Command

PROMPT = [5, 9, 2, 7, 3, 8, 4, 6] * 9


def text(tokens: list[int], most: int = 200) -> Sequence:
    return Sequence(list(tokens), most)


def continued(tokens: list[int], count: int) -> list[int]:
    """Return what the plain model says greedily."""
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(int(logits_after(tokens).argmax()))
    return tokens[-count:]


def test_what_the_small_model_would_say_is_proposed() -> None:
    """A draft is the small model's greedy continuation, as far as it is sure enough."""
    model = drafted(PlainContext(512, 64, 0), SHAPES["paged"])
    sequence = text(PROMPT)
    for _ in range(3):
        model.propose([sequence])
    assert sequence.draft
    assert sequence.draft == continued(PROMPT, len(sequence.draft))
    assert 0 < sequence.draft_acceptance <= 1


def test_the_prompt_is_read_in_batches_between_steps() -> None:
    """A prompt longer than a batch is read over several calls; a short text does not wait for it."""
    small = PlainContext(512, 64, 0)
    model = drafted(small, SHAPES["paged"])
    long, short = text(PROMPT * 2, 400), text(PROMPT[:9])
    model.propose([long, short])
    assert not long.draft
    assert short.draft
    for _ in range(3):
        model.propose([long, short])
    assert long.draft == continued(PROMPT * 2, len(long.draft))


def test_rejected_drafts_are_forgotten() -> None:
    """After other tokens than the proposed ones, the next draft continues the text as it is."""
    model = drafted(PlainContext(512, 64, 0), SHAPES["paged"])
    sequence = text(PROMPT[:20])
    for step in range(20):
        model.propose([sequence])
        assert sequence.draft == continued(sequence.tokens, len(sequence.draft))
        taken = sequence.draft[: step % 3]
        sequence.tokens += [*taken, 2 + step % 8]
        sequence.draft, sequence.draft_acceptance = [], 0.0


def test_a_small_model_that_is_never_right_is_asked_less() -> None:
    """Drafts become shorter, and none, where the model agrees with none of them."""
    model = drafted(PlainContext(512, 64, 0), SHAPES["paged"])
    sequence = text(PROMPT[:20], 300)
    lengths: list[int] = []
    for _ in range(60):
        sequence.draft, sequence.draft_acceptance = [], 0.0
        model.propose([sequence])
        lengths.append(len(sequence.draft))
        model.learn(sequence, tuple(sequence.draft), 0)
        sequence.tokens.append(2 + len(sequence.tokens) % 8)
    assert lengths[0] > 0
    assert sum(lengths[-10:]) < sum(lengths[:10])


def test_a_better_draft_is_kept() -> None:
    """Where an earlier text went on in the same way and such drafts are accepted more often, the small model is not asked."""
    model = drafted(PlainContext(512, 64, 0), SHAPES["paged"])
    sequence = text(PROMPT[:20])
    sequence.draft, sequence.draft_acceptance = [7, 7], 0.97
    model.propose([sequence])
    assert sequence.draft == [7, 7]


def test_texts_beyond_its_slots_and_cells_get_no_drafts() -> None:
    """With more texts than slots, and without cells, some texts have no draft; nothing fails, and freed slots serve others."""
    for cells in (64, 2048):
        model = drafted(SmallContext(cells, 64, 0), SHAPES["paged"])
        texts = [text(PROMPT[: 12 + at]) for at in range(5)]
        for _ in range(8):
            model.propose(texts)
        num_drafted = sum(bool(sequence.draft) for sequence in texts)
        assert num_drafted <= 3
        assert num_drafted or cells == 64
    for sequence in texts:
        sequence.draft = []
    model.propose(texts[3:])
    assert all(sequence.draft for sequence in texts[3:])


def _ask(world: World, requests: list[Generate], grammar: Alternation | None = None) -> list[str]:
    commands: list[Command] = [
        world.ask((0, request.id), request, list(PROMPT), grammar and grammar.copy()) for request in requests
    ]
    world.follow(commands)
    return [
        "".join(answer.text for answer in world.answers[0, request.id] if isinstance(answer, Delta))
        for request in requests
    ]


@pytest.mark.parametrize("grammar", [None, Alternation(30)], ids=["free", "grammar"])
@pytest.mark.parametrize("temperature", [0, 1.2])
def test_answers_are_the_same_with_and_without(grammar: Alternation | None, temperature: float) -> None:
    """Greedy or drawn, free or under a grammar: a draft model changes how many steps an answer takes, and no token of it."""
    requests = [
        Generate(id=number, prompt=TEXT, max_tokens=40, sampling=SamplingParams(temperature=temperature, seed=number))
        for number in range(2)
    ]
    without, with_draft = World(shape="paged", ngram_pool=True), World(
        shape="paged", ngram_pool=True, small=PlainContext(1024, 64, 0)
    )  # fmt: skip
    assert _ask(without, requests, grammar) == _ask(with_draft, requests, grammar)
    said = with_draft.loop.statistics
    assert 0 < said.model_accepted_tokens <= said.model_drafted_tokens <= said.drafted_tokens
    assert said.steps < without.loop.statistics.steps or grammar is not None


def test_what_is_drawn_has_the_models_distribution() -> None:
    """Over two thousand seeds, the second tokens of answers, which are drafted, occur as often as the model's probabilities say."""
    world = World(shape="paged", small=PlainContext(1024, 64, 0), cells=4096)
    requests = [
        Generate(id=seed, prompt=TEXT, max_tokens=3, logprobs=0, sampling=SamplingParams(temperature=1, seed=seed))
        for seed in range(2000)
    ]
    history: list[list[Command]] = [[world.ask((0, request.id), request, [5, 9])] for request in requests]
    world.follow(*history)
    counts: Counter[int] = Counter()
    for request in requests:
        tokens = [
            token for answer in world.answers[0, request.id] if isinstance(answer, Delta) for token in answer.tokens
        ]
        counts.update(token.id for token in tokens[1:2])
    wanted = np.zeros(len(DATA))
    first = _softmax([5, 9])
    for token, probability in enumerate(first):
        if token:  # zero ends the text
            wanted += probability * _softmax([5, 9, token])
    wanted[0] = 0
    found = np.array([counts[token] for token in range(len(DATA))])
    expected = wanted / wanted.sum() * found.sum()
    is_frequent = expected >= 10
    chi_squared = float(((found - expected) ** 2)[is_frequent] @ (1 / expected[is_frequent]))
    assert chi_squared < 35  # of at most 10 degrees of freedom, exceeded once in ten thousand
    assert world.loop.statistics.model_accepted_tokens > 100


def _softmax(tokens: list[int]) -> np.ndarray:
    row = np.exp(logits_after(tokens).astype(np.float64))
    return row / row.sum()


def _nothing(times: int) -> list[list[Command]]:
    return [[] for _ in range(times)]


def test_a_cancelled_text_frees_its_slot() -> None:
    """After a cancellation, the next text takes over what the small model has read of the same beginning."""
    small = PlainContext(1024, 64, 0)
    world = World(shape="paged", small=small, ngram_pool=True)
    long = [Generate(id=number, prompt=TEXT, max_tokens=150, sampling=GREEDY) for number in range(4)]
    world.follow(
        [world.ask((0, 0), long[0], list(PROMPT)), world.ask((0, 1), long[1], list(PROMPT))],
        *_nothing(12),
        [CancelTask(0, 0), world.ask((0, 2), long[2], list(PROMPT))],
        *_nothing(5),
        [CancelTask(0, 1), world.ask((0, 3), long[3], list(PROMPT))],
    )
    assert world.loop.statistics.cancelled == 2
    assert world.loop.statistics.model_accepted_tokens > 0
