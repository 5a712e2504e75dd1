"""Messages, tools and schema into prompt and grammar; generated text back into content and tool calls."""

from antiphon.prompting.errors import PromptError, TemplateBrokenError, TemplateRefusedError
from antiphon.prompting.guard import Piece
from antiphon.prompting.prompter import ChatPrompter, Plan
from antiphon.prompting.reader import Reader

__all__ = ["ChatPrompter", "Piece", "Plan", "PromptError", "Reader", "TemplateBrokenError", "TemplateRefusedError"]
