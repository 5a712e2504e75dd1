"""What goes wrong between messages and prompt.

PromptError
├── TemplateBrokenError   the model's template cannot be compiled or run: the model file is at fault
└── TemplateRefusedError  the template raised an error of its own about this conversation
"""

from antiphon.errors import AntiphonError


class PromptError(AntiphonError):
    """A prompt, grammar or parser could not be made."""


class TemplateBrokenError(PromptError):
    """The chat template is not valid Jinja, exceeds its bounds, or fails for a reason it does not state."""


class TemplateRefusedError(PromptError):
    """The template called ``raise_exception``; the message is the template's own."""
