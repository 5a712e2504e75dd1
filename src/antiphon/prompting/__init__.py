"""Messages, tools and schema into prompt and grammar; generated text back into content and tool calls."""

from antiphon.prompting.errors import PromptError, TemplateBrokenError, TemplateRefusedError
from antiphon.prompting.escaping import Piece
from antiphon.prompting.output_parser import OutputParser
from antiphon.prompting.prompter import ChatPrompter, Plan
from antiphon.prompting.rerank_template import RerankTemplate
from antiphon.prompting.tool_calls.selection import ToolQuestion, ToolSelector, offered_tools

__all__ = [
    "ChatPrompter",
    "OutputParser",
    "Piece",
    "Plan",
    "PromptError",
    "RerankTemplate",
    "TemplateBrokenError",
    "TemplateRefusedError",
    "ToolQuestion",
    "ToolSelector",
    "offered_tools",
]
