"""From a chat request to a plan: the prompt, what the generated text must follow, and how to read it back."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from antiphon.prompting.closing import turn_closing
from antiphon.prompting.fitting import Fitting
from antiphon.prompting.guard import Guard, Piece
from antiphon.prompting.reader import PlainReader, Reader
from antiphon.prompting.template import ChatTemplate
from antiphon.prompting.turns import turns_of
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.errors import ApiError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""What a model without a template of its own gets, if its vocabulary shows that it was trained on ChatML."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How to answer one request.

    ``grammar`` is an llguidance grammar that the generated text must follow. ``stop`` are strings that end the answer
    beside the request's own. With ``special``, control tokens are to be generated as their text, which the reader
    needs. Each choice is read by a reader of its own.
    """

    prompt: tuple[Piece, ...]
    grammar: str | None = None
    stop: tuple[str, ...] = ()
    special: bool = False

    def reader(self, index: int) -> Reader:
        """Return a fresh reader for choice ``index``."""
        return PlainReader(index)


class ChatPrompter:
    """Prompts one model. Made once per model; safe to share between threads.

    ``templates`` are the named ones that some models carry beside the default. ``control_tokens`` are the texts that
    users' strings must not be able to produce; ``end_tokens`` those at which the engine stops by itself.
    Raises ``TemplateBrokenError`` when a template cannot be compiled.
    """

    def __init__(
        self,
        *,
        template: str | None,
        templates: Mapping[str, str] | None = None,
        bos_token: str = "",
        eos_token: str = "",
        adds_bos: bool = False,
        control_tokens: Sequence[str] = (),
        end_tokens: Sequence[str] = (),
    ) -> None:
        self._guard = Guard(control_tokens)
        self._bos = bos_token if adds_bos else ""
        source = template if template is not None else (templates or {}).get("default")
        if source is None and "<|im_start|>" in control_tokens:
            source = CHATML
        variables: dict[str, Any] = {"bos_token": bos_token, "eos_token": eos_token}
        self._fitting = None
        self._stop: tuple[str, ...] = ()
        if source is not None:
            compiled = ChatTemplate(source, variables)
            self._fitting = Fitting(compiled)
            closing = turn_closing(compiled, control_tokens)
            self._stop = (closing,) if closing and closing not in end_tokens else ()

    def plan(self, request: ChatRequest) -> Plan:
        """Return how to answer ``request``. Raises ``ApiError`` 400 for what this model's template cannot express."""
        if self._fitting is None:
            raise ApiError(
                400,
                f"The model `{request.model}` has no chat template, so it takes no messages; use /v1/completions.",
                param="model",
            )
        cover = self._guard.cover()
        turns = cover.protect(turns_of(request.messages))
        rendered = self._fitting.render(turns, None, {})
        if self._bos and not rendered.startswith(self._bos):
            rendered = self._bos + rendered
        return Plan(prompt=cover.split(rendered), stop=self._stop, special=bool(self._stop))
