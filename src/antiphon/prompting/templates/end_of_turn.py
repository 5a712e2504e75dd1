"""Which control token closes the assistant's turn, read off the template itself."""

from collections.abc import Sequence

from antiphon.prompting.errors import TemplateRefusedError
from antiphon.prompting.templates.template import ChatTemplate

_ANSWER = "MarkerOfAnswer"
_NEXT = "MarkerOfNext"


def end_of_turn_token(template: ChatTemplate, control_tokens: Sequence[str], end_tokens: Sequence[str]) -> str | None:
    """Return the first control token after an assistant's text; None if there is none, or one of ``end_tokens`` follows.

    Model files often name only one end token, and not always the one that their template ends turns with.
    """
    conversation = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _NEXT},
    ]
    try:
        rendered = template.render(conversation)
    except TemplateRefusedError:
        return None
    after = rendered.partition(_ANSWER)[2].partition(_NEXT)[0]
    if any(token in after for token in end_tokens if token):
        return None
    places = [(after.index(token), -len(token), token) for token in control_tokens if token and token in after]
    return min(places)[2] if places else None
