"""Detects how a model marks its thinking, and which switches its template has for it."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from antiphon.prompting.errors import TemplateRefusedError
from antiphon.prompting.templates.template import ChatTemplate

_USER = "MarkerOfUser"
_ANSWER = "MarkerOfAnswer"
_THOUGHT = "MarkerOfThought"
_TAG = re.compile(r"<[^<>\s]*(?:think|thought|reason)[^<>\s]*>|\[/?think\]|◁/?think▷", re.IGNORECASE)
_CLOSES = re.compile(r"/|end", re.IGNORECASE)
_SIDES = re.compile(r"/|start|begin|end|[_:|]", re.IGNORECASE)
_NONE = {"none", "minimal"}


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """What opens and closes a model's thinking. ``begun``: the prompt has opened it already."""

    open: str
    close: str
    begun: bool = False


class Reasoning:
    """What one template knows about thinking, detected from what it renders."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.tags = _shown(template) or _mentioned(template)
        prompt = _after_user(template, [{"role": "user", "content": _USER}], add_generation_prompt=True) or ""
        # Where a thought ends with the header of the next turn, a prompt's end says nothing of thoughts.
        self._ends_in_header = self.tags is not None and bool(prompt) and self.tags[1].endswith(prompt)
        self._switches = {
            name: _differs(template, name) for name in ("reasoning_effort", "enable_thinking", "thinking")
        }

    def variables(self, effort: str | None) -> dict[str, Any]:
        """Return the template's variables for an effort; none where the template has no switch, as an effort is a hint."""
        if effort is None:
            return {}
        if self._switches["reasoning_effort"]:
            return {"reasoning_effort": effort}
        switches = [name for name in ("enable_thinking", "thinking") if self._switches[name]]
        return dict.fromkeys(switches, effort not in _NONE)

    def thinking(self, prompt: str) -> Thinking | None:
        """Return how the answer to a rendered prompt thinks; None if it does not, or the prompt has switched it off."""
        if self.tags is None:
            return None
        opening, closing = self.tags
        end = prompt.rstrip()
        if end.endswith(opening.strip()):
            return Thinking(open=opening, close=closing, begun=True)
        if end.endswith(closing.strip()) and not self._ends_in_header:
            return None
        return Thinking(open=opening, close=closing)


def _shown(template: ChatTemplate) -> tuple[str, str] | None:
    """Read the tags off an answer with a thought, as templates name it in one of three ways."""
    user = {"role": "user", "content": _USER}
    answer = {"role": "assistant", "content": _ANSWER}
    thought = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THOUGHT)
    plain = _after_user(template, [user, answer])
    full = _after_user(template, [user, {**answer, **thought}])
    if plain is None or full is None or full.count(_THOUGHT) != 1:
        return None
    before, _, rest = full.partition(_THOUGHT)
    between, found, _ = rest.partition(_ANSWER)
    if not found or not between.strip():
        return None
    prompt = _after_user(template, [user], add_generation_prompt=True) or ""
    return _beyond(prompt, before), _closing(between, plain.partition(_ANSWER)[0], prompt)


def _beyond(prompt: str, text: str) -> str:
    """Return what follows the prompt's text; where the prompt itself opens the thought, its last tag."""
    if text.startswith(prompt) and text != prompt:
        return text[len(prompt) :]
    tags = re.findall(r"<[^<>]+>|\[[^\[\]]+\]", text)
    return tags[-1] if tags else text


def _closing(between: str, plain: str, prompt: str) -> str:
    """Return what closes a thought: the text up to the answer, less what opens any answer."""
    opening = plain[len(prompt) :] if plain.startswith(prompt) else ""
    return between.removesuffix(opening) if opening.strip() else between


def _mentioned(template: ChatTemplate) -> tuple[str, str] | None:
    """Find a pair of tags in the source, for templates that cut thoughts out of the history."""
    tags = list(dict.fromkeys(_TAG.findall(template.source)))
    closing = [tag for tag in tags if _CLOSES.search(tag)]
    for opening in (tag for tag in tags if tag not in closing):
        for close in closing:
            if _SIDES.sub("", opening).lower() == _SIDES.sub("", close).lower():
                return opening, close
    return None


def _differs(template: ChatTemplate, name: str) -> bool:
    if name not in template.source:
        return False
    values: tuple[Any, Any] = ("low", "high") if name == "reasoning_effort" else (False, True)
    user = [{"role": "user", "content": _USER}]
    try:
        one, other = (template.render(user, None, **{name: value}) for value in values)
    except TemplateRefusedError:
        return False
    return one != other


def _after_user(template: ChatTemplate, messages: Sequence[Any], *, add_generation_prompt: bool = False) -> str | None:
    try:
        rendered = template.render(messages, add_generation_prompt=add_generation_prompt)
    except TemplateRefusedError:
        return None
    return rendered.partition(_USER)[2]
