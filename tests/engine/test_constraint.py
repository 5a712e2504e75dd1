"""Grammars in the real engine."""

import json

import llguidance
import msgspec
import pytest

from antiphon.engine import Engine, GrammarRejected
from antiphon.engine.ipc.messages import Delta, Finished, Generate, Prompt, SamplingParams, Text

pytestmark = [pytest.mark.anyio, pytest.mark.model]

PROMPT: Prompt = (Text("<|im_start|>user\nDescribe a person<|im_end|>\n<|im_start|>assistant\n", special=True),)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "city": {"enum": ["Paris", "London"]}},
    "required": ["name", "city"],
    "additionalProperties": False,
}
GRAMMAR = llguidance.LLMatcher.grammar_from_json_schema(SCHEMA, overrides={"whitespace_flexible": False})


@pytest.mark.parametrize("logprobs", [None, 1])
async def test_every_choice_follows_the_grammar(engine: Engine, logprobs: int | None) -> None:
    """Whatever the temperature, and with forced tokens or without, the text is complete and valid JSON."""
    request = Generate(
        id=0, prompt=PROMPT, n=3, grammar=GRAMMAR, max_tokens=80, logprobs=logprobs, sampling=SamplingParams(seed=7)
    )
    texts = {0: "", 1: "", 2: ""}
    async for answer in engine.generate(request):
        if isinstance(answer, Delta):
            texts[answer.index] += answer.text
        elif isinstance(answer, Finished):
            assert answer.reason == "stop"
    for text in texts.values():
        assert json.loads(text)["city"] in {"Paris", "London"}


@pytest.mark.parametrize("grammar", ["start: nonsense(", "", "start: missing_rule", "{}", '{"grammars": 1}'])
async def test_refuses_invalid_grammars(engine: Engine, grammar: str) -> None:
    """A grammar that does not compile is refused with the compiler's words."""
    with pytest.raises(GrammarRejected):
        async for _ in engine.generate(Generate(id=0, prompt=PROMPT, grammar=grammar)):
            pass


@pytest.mark.parametrize(
    "grammar",
    [
        r"start: /[0-9]\x04/",
        r"start: /\x04[a-z]+/",
        "start: /[a-z]{2}\U00050000/",
        'start: "a" start',
        "start: /a(?=b)/",
        "start: <|nope|>",
    ],
)
async def test_a_rejected_grammar_is_explained_without_internals(engine: Engine, grammar: str) -> None:
    """Bytes without a token, limits and syntax errors are named in words; the compiler's state is not shown."""
    with pytest.raises(GrammarRejected) as caught:
        async for _ in engine.generate(Generate(id=0, prompt=PROMPT, grammar=grammar, max_tokens=400)):
            pass
    shown = str(caught.value)
    assert not [name for name in ("NoExtension", "<state>", "grm_prefix", "Parser Error", "applying") if name in shown]
    assert len(shown) > 20


async def test_an_end_by_max_tokens_is_reported(engine: Engine) -> None:
    """A text that max_tokens cuts short ends with length, under a grammar too."""
    request = Generate(id=0, prompt=PROMPT, grammar=GRAMMAR, max_tokens=4)
    answers = [answer async for answer in engine.generate(request)]
    assert isinstance(answers[-1], Finished)
    assert (answers[-1].reason, answers[-1].num_tokens) == ("length", 4)


async def test_a_grammar_complete_with_the_last_token_ends_with_stop(engine: Engine) -> None:
    """Whether max_tokens had left room for more makes no difference; one token fewer does."""
    request = Generate(id=0, prompt=PROMPT, grammar=GRAMMAR, max_tokens=80, sampling=SamplingParams(temperature=0))
    whole = [answer async for answer in engine.generate(request)][-1]
    assert isinstance(whole, Finished)
    for missing, reason in ((0, "stop"), (1, "length")):
        shorter = msgspec.structs.replace(request, max_tokens=whole.num_tokens - missing)
        last = [answer async for answer in engine.generate(shorter)][-1]
        assert isinstance(last, Finished)
        assert (last.reason, last.num_tokens) == (reason, whole.num_tokens - missing)
