"""A chat template: the model's own Jinja, compiled once and rendered within bounds."""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.environment import Template

from antiphon.prompting.errors import PromptError, TemplateBrokenError, TemplateRefusedError
from antiphon.prompting.templates.budget import MAX_CHARS, num_chars
from antiphon.prompting.templates.sandbox import Bounds, TemplateEnvironment

RENDER_LIMIT_S = 10.0
MAX_SOURCE_CHARS = 1_000_000
"""Of a template; the longest known ones have 20,000."""


def _local_now() -> datetime:
    return datetime.now().astimezone()


class ChatTemplate:
    """Renders conversations as `transformers` would. Safe to share between threads.

    ``variables`` are given to every rendering (``bos_token`` and the like). ``now`` is what ``strftime_now`` shows.
    Raises ``TemplateBrokenError`` when the source is not a valid template.
    """

    def __init__(
        self, source: str, variables: Mapping[str, Any] | None = None, now: Callable[[], datetime] = _local_now
    ) -> None:
        self.source = source
        self._variables = dict(variables or {})
        self._environment = TemplateEnvironment(now)
        self._lock = threading.Lock()
        self._template = self._compile(source)
        self._no_tools: dict[str, Any] = {"tools": None}
        self._no_tools = self._without_tools()

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None, **variables: Any
    ) -> str:
        """Return the prompt's text, with the opening of the assistant's turn unless ``add_generation_prompt`` is False.

        Raises ``TemplateRefusedError`` with the template's own words, ``TemplateBrokenError`` for any other failure.
        """
        values: dict[str, Any] = {"add_generation_prompt": True, "documents": None, **self._variables, **variables}
        values |= {"messages": list(messages)} | ({"tools": list(tools)} if tools else self._no_tools)
        with self._lock:
            try:
                self._environment.budget.start(RENDER_LIMIT_S, num_chars(values))
                return self._collect(values)
            except PromptError:
                raise
            except (RecursionError, MemoryError) as error:
                raise TemplateBrokenError(
                    "The chat template recurses without end, or needs too much memory."
                ) from error
            except TemplateError as error:
                raise TemplateRefusedError(str(error)) from error
            except Exception as error:
                # What templates do to values (None + str, missing attributes) ends in any of Python's errors.
                raise TemplateRefusedError(f"{type(error).__name__}: {error}") from error

    def _without_tools(self) -> dict[str, Any]:
        """Return how to say that there are no tools: None as a rule, but some templates only ask if they are defined."""
        conversation = [{"role": "user", "content": "Hello"}]
        try:
            self.render(conversation)
        except PromptError:
            try:
                self._no_tools = {}
                self.render(conversation)
            except PromptError:
                return {"tools": None}
        return self._no_tools

    def _collect(self, values: dict[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        for part in self._template.generate(values):
            parts.append(part)
            size += len(part)
            if size > MAX_CHARS:
                raise TemplateBrokenError("The chat template's output is beyond its bounds.")
        return "".join(parts)

    def _compile(self, source: str) -> Template:
        environment = self._environment
        if len(source) > MAX_SOURCE_CHARS:
            raise TemplateBrokenError(f"The model's chat template has more than {MAX_SOURCE_CHARS} characters.")
        environment.budget.start(RENDER_LIMIT_S, 0)
        try:
            tree = Bounds().visit(environment.parse(source))
            return Template.from_code(environment, environment.compile(tree), environment.make_globals(None))
        except (TemplateError, RecursionError, SyntaxError, ValueError, MemoryError) as error:
            raise TemplateBrokenError(
                f"The model's chat template is not valid Jinja: {error}",
                hint="Set chat_template or chat_template_file for this model, under [models] or [[models.extra]].",
            ) from error
