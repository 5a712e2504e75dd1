"""What one chat template can express, detected once when the model is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

from antiphon.prompting.errors import TemplateRefusedError
from antiphon.prompting.reasoning import Reasoning
from antiphon.prompting.templates.adapter import ConversationAdapter
from antiphon.prompting.templates.end_of_turn import end_of_turn_token
from antiphon.prompting.templates.template import ChatTemplate
from antiphon.prompting.tool_calls.detect import USER, Thought, detect_syntax, shows_tools, until_end, without_thought
from antiphon.prompting.tool_calls.syntax import GENERIC, ToolSyntax

_ANSWER = "MarkerOfAnswer"


class TemplateProfile:
    """A template with everything detected from it. Safe to share between threads.

    ``syntax`` is None where the template shows tools but writes calls in a form that cannot be read back.
    ``knows_tools``: it shows tools and writes calls itself; otherwise the syntax is the generic one, and tools are
    described in words. ``opening`` and ``closing`` enclose any answer (the name of a channel, say). ``stop`` are texts that end a turn
    in addition to the engine's own end tokens.
    """

    def __init__(
        self, source: str, variables: Mapping[str, Any], control_tokens: Sequence[str], end_tokens: Sequence[str]
    ) -> None:
        template = ChatTemplate(source, variables)
        closing = end_of_turn_token(template, control_tokens, end_tokens)
        ends = [token for token in (*end_tokens, closing or "", variables.get("eos_token", "")) if token]
        self.adapter = ConversationAdapter(template)
        self.reasoning = Reasoning(template)
        self.knows_tools = shows_tools(template)
        self.syntax: ToolSyntax | None = GENERIC
        if self.knows_tools:
            self.syntax = detect_syntax(template, ends, self.reasoning.tags)
        self.opening, self.closing = _around_answer(template, ends, self.reasoning.tags)
        in_thoughts = "".join(self.reasoning.tags or ())
        self.stop: tuple[str, ...] = (closing,) if closing and closing not in in_thoughts else ()

    def texts(self) -> tuple[str, ...]:
        """Return all literal text that a parser for this template looks for."""
        syntax = self.syntax
        of_calls = (
            (syntax.lead, syntax.between or "", syntax.tail, *(slot.after for slot in syntax.slots)) if syntax else ()
        )
        return (*of_calls, *(self.reasoning.tags or ()), self.opening, self.closing, *self.stop)


def _around_answer(template: ChatTemplate, ends: Sequence[str], thought: Thought) -> tuple[str, str]:
    """Return the literal text around an answer, apart from the prompt and the end of the turn."""
    user = {"role": "user", "content": USER}
    turn = {"role": "assistant", "content": _ANSWER}
    try:
        prompt = template.render([user]).partition(USER)[2]
        rendered = template.render([user, turn], add_generation_prompt=False).partition(USER)[2]
    except TemplateRefusedError:
        return "", ""
    before, _, after = rendered.partition(_ANSWER)
    opening = before[len(prompt) :] if before.startswith(prompt) else ""
    return without_thought(opening, thought).lstrip(), until_end(after, ends).strip()
