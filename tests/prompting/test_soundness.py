"""What a grammar lets through satisfies the schema, whatever writes it: here, chance."""

import json
import os
import random
import re
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tests.prompting.random_schemas import schemas

from antiphon.prompting.answer_grammar import answer_grammar
from antiphon.prompting.schemas.compile import check_schema
from antiphon.protocol.chat import JsonSchemaFormat
from antiphon.protocol.errors import ApiError

EXAMPLES = int(os.environ.get("ANTIPHON_FUZZ_EXAMPLES", "100"))
TOKENIZER = LLTokenizer("byte")
MAX_BYTES = 400
CLOSERS = b'"]}'


def walk(grammar: str, chance: random.Random) -> str | None:
    """Write what the grammar allows, byte by byte, with a liking for the ends of things; None if it gets long."""
    limits = LLParserLimits(initial_lexer_fuel=1_000_000)
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0, limits=limits)
    written = bytearray()
    while len(written) < MAX_BYTES:
        mask = matcher.compute_logit_bias()
        assert not matcher.is_error(), matcher.get_error()
        allowed = [byte for byte in range(256) if mask[byte]]
        if not allowed or (matcher.is_accepting() and chance.random() < 0.5):
            return written.decode()
        closers = [byte for byte in allowed if byte in CLOSERS]
        byte = chance.choice(closers if closers and chance.random() < 0.4 else allowed)
        assert matcher.consume_token(byte)
        written.append(byte)
    return None


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(schemas, st.booleans(), st.randoms(use_true_random=False))
def test_whatever_is_written_validates(schema: Any, is_bounded: bool, chance: random.Random) -> None:
    """A text that the grammar of an accepted schema takes to its end is JSON that the schema allows, bounded or not."""
    assume(isinstance(schema, dict))
    try:
        check_schema(schema, what="x", param="x")
    except ApiError:
        return
    grammar = answer_grammar({}, calls=None, form=JsonSchemaFormat("x", schema), thinking=None, is_bounded=is_bounded)
    assert grammar is not None
    text = walk(grammar, chance)
    if text is not None:
        with suppress(re.error):  # an invalid pattern next to an alternative that takes anything
            Draft202012Validator(schema).validate(json.loads(text))
