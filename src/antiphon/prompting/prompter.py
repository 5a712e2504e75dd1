"""Turns a chat request into a plan: the prompt, the grammar of the answer, and how to parse it."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from antiphon.prompting.answer_grammar import MAX_CALLS, CallRules, answer_grammar
from antiphon.prompting.escaping import Piece, RequestEscaper, SpecialTokenEscaper
from antiphon.prompting.history import RawArguments, native_turns, written_turns
from antiphon.prompting.instructions import form_in_words, tool_value, tools_in_words, with_instructions
from antiphon.prompting.output_parser import OutputLayout, OutputParser
from antiphon.prompting.schemas.bounds import CLOSING_TEXTS, max_word
from antiphon.prompting.schemas.compile import check_request
from antiphon.prompting.template_profile import TemplateProfile
from antiphon.prompting.templates.adaptations import Turn
from antiphon.prompting.tool_calls.key_values import check_key_values
from antiphon.prompting.tool_calls.selection import ToolQuestion, ToolSelector, offered_tools
from antiphon.prompting.tool_calls.stops import check_stops
from antiphon.prompting.tool_calls.syntax import GENERIC
from antiphon.protocol.chat import ChatRequest, JsonSchemaFormat, Message, Tool, ToolChoice
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import FinishReason

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template of a model that has none, if its vocabulary shows that it was trained on ChatML."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How to answer one request.

    ``grammar`` is an llguidance grammar that the generated text must follow. ``closing_texts`` are the texts that close open
    JSON once the answer repeats itself; there are none where it may go on. ``max_word`` bounds runs of characters without a
    blank. ``stop`` are strings that end the answer in addition to the request's own. With ``special``, the engine generates
    special tokens as their text, which the parser needs. Each choice is read by a parser of its own.
    """

    prompt: tuple[Piece, ...]
    grammar: str | None = None
    closing_texts: tuple[str, ...] = ()
    max_word: int | None = None
    stop: tuple[str, ...] = ()
    special: bool = False
    layout: OutputLayout = OutputLayout()

    def parser(self, index: int) -> OutputParser:
        """Return a fresh parser for choice ``index``."""
        return OutputParser(index, self.layout)


class ChatPrompter:
    """Prompts one model. Made once per model; safe to share between threads.

    ``templates`` are the named templates that some models have in addition to the default; ``tool_use`` is used for requests
    with tools. ``control_tokens`` are the texts that users' strings must not be able to produce, ``token_ids`` the ids of
    those that a grammar must name. The engine itself stops at ``end_tokens``.
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
        token_ids: Mapping[str, int] | None = None,
    ) -> None:
        self._escaper = SpecialTokenEscaper(control_tokens)
        self.selector = ToolSelector()
        self._control_tokens = tuple(control_tokens)
        self._token_ids = dict(token_ids or {})
        self._bos = bos_token if adds_bos else ""
        named = dict(templates or {})
        source = template if template is not None else named.get("default")
        if source is None and "<|im_start|>" in control_tokens:
            source = CHATML
        variables: dict[str, Any] = {"bos_token": bos_token, "eos_token": eos_token}

        def profile(text: str | None) -> TemplateProfile | None:
            return None if text is None else TemplateProfile(text, variables, control_tokens, end_tokens)

        self._profile = profile(source)
        self._tool_profile = profile(named.get("tool_use")) or self._profile

    def question(self, request: ChatRequest) -> ToolQuestion | None:
        """Check a request; return the question to answer before it can be planned, None if there is none.

        With tools or a schema this may take seconds, in another process: not for an event loop.
        Raises ``ApiError`` 400 for what cannot be enforced, or what this model's template cannot express.
        """
        check_request(request)
        tools = offered_tools(request)
        profile = self._profile_for(request, tools)
        if tools and profile.syntax is not None:
            check_stops(request.stop, profile.syntax, tools, request.model)
        return None if profile.knows_tools else self.selector.question(request)

    def plan(self, request: ChatRequest, tools: tuple[Tool, ...] | None = None) -> Plan:
        """Return how to answer ``request``.

        ``tools`` are those that the selector chose for the request's ``question``, or all that are offered where there was
        none. With None the request is checked here, and the tool is chosen without an embedding model.
        Raises ``ApiError`` as ``question`` does.
        """
        request, tools, profile = self._settled(request, tools)
        prompt = self._prompt(profile, request, tools)
        return self._plan(profile, request, tools, prompt)

    def prompt(self, request: ChatRequest, tools: tuple[Tool, ...] | None = None) -> tuple[Piece, ...]:
        """Return the prompt of ``plan(request, tools)`` alone."""
        request, tools, profile = self._settled(request, tools)
        return self._prompt(profile, request, tools)[1]

    def _settled(
        self, request: ChatRequest, chosen: tuple[Tool, ...] | None
    ) -> tuple[ChatRequest, tuple[Tool, ...], TemplateProfile]:
        """Return the request with the chosen tools as its choice, those tools, and the template to use."""
        offered = offered_tools(request)
        if chosen is None:
            question = self.question(request)
            chosen = offered if question is None else self.selector.choose(question, None)
        profile = self._profile_for(request, offered)
        if offered and not profile.knows_tools and request.tool_choice.mode != "required":
            choice = ToolChoice("required" if chosen else "none")
            request = msgspec.structs.replace(request, tool_choice=choice)
        return request, chosen, profile

    def _profile_for(self, request: ChatRequest, tools: tuple[Tool, ...]) -> TemplateProfile:
        roles = {"tool", "function"}
        in_play = bool(tools) or any(message.tool_calls or message.role in roles for message in request.messages)
        profile = self._tool_profile if in_play else self._profile
        if profile is None:
            raise ApiError(
                400,
                f"The model `{request.model}` has no chat template, so it takes no messages; use /v1/completions.",
                param="model",
            )
        if in_play and profile.syntax is None:
            raise ApiError(
                400,
                f"The model `{request.model}` cannot call tools here: its chat template shows tools, "
                "but writes calls in a form that cannot be read back.",
                param="tools" if tools else "messages",
            )
        if (
            profile.syntax is not None
            and not profile.syntax.names_first
            and any(tool.kind == "custom" for tool in tools)
        ):
            raise ApiError(
                400,
                f"The model `{request.model}` cannot call custom tools: it writes a call's arguments before the tool's name, "
                "so plain text could not be distinguished from arguments. Use a function.",
                param="tools",
            )
        if profile.syntax is not None and profile.syntax.key_values is not None:
            for number, tool in enumerate(tools):
                check_key_values(tool, request.model, f"tools[{number}].function.parameters")
        return profile

    def _prompt(
        self, profile: TemplateProfile, request: ChatRequest, tools: tuple[Tool, ...]
    ) -> tuple[str, tuple[Piece, ...]]:
        """Return the rendered text, in which users' special tokens are still escaped, and its pieces."""
        escaper = self._escaper.for_request()
        raw_arguments = RawArguments(escaper)
        turns, shown = self._turns(escaper, raw_arguments, profile, request, tools)
        variables = profile.reasoning.variables(request.reasoning_effort)
        rendered = raw_arguments.show(profile.adapter.render(turns, shown, variables))
        if self._bos and not rendered.startswith(self._bos):
            rendered = self._bos + rendered
        return rendered, escaper.split(rendered)

    def _plan(
        self,
        profile: TemplateProfile,
        request: ChatRequest,
        tools: tuple[Tool, ...],
        prompt: tuple[str, tuple[Piece, ...]],
    ) -> Plan:
        rendered, pieces = prompt
        layout = self._layout(profile, request, tools, rendered)
        rules = None
        if layout.syntax is not None:
            # A model without tool training repeats itself when it may call more than once.
            is_parallel = profile.knows_tools and request.parallel_tool_calls and not request.legacy_functions
            max_calls = MAX_CALLS if is_parallel else 1
            rules = CallRules(syntax=layout.syntax, tools=tools, required=layout.calls_only, max_calls=max_calls)
        grammar = answer_grammar(
            self._token_ids,
            calls=rules,
            form=request.response_format,
            thinking=layout.thinking,
            around=(profile.opening, profile.closing),
            is_bounded=not profile.knows_tools,
        )
        texts = (*profile.texts(), *profile.stop)
        special = any(token in text for text in texts for token in self._control_tokens if token)
        is_json = grammar is not None and all(tool.kind == "function" for tool in tools)
        may_run_away = is_json and not profile.knows_tools and layout.thinking is None
        return Plan(
            prompt=pieces,
            grammar=grammar,
            closing_texts=CLOSING_TEXTS if may_run_away else (),
            max_word=max_word(_schemas(request, tools)) if may_run_away else None,
            stop=profile.stop,
            special=special,
            layout=layout,
        )

    def _turns(
        self,
        escaper: RequestEscaper,
        raw_arguments: RawArguments,
        profile: TemplateProfile,
        request: ChatRequest,
        tools: tuple[Tool, ...],
    ) -> tuple[list[Turn], list[dict[str, Any]] | None]:
        form = request.response_format
        words = [form_in_words(form, as_list=not profile.knows_tools)] if form is not None else []
        # Without a syntax there is no call to write: such requests were refused earlier.
        syntax = profile.syntax or GENERIC
        if profile.knows_tools:
            turns = with_instructions(native_turns(request.messages, syntax), words)
            turns, shown = escaper.escape([turns, [tool_value(tool) for tool in tools]])
            if syntax.arguments == "object":
                raw_arguments.hide(turns)
            return turns, shown or None
        # Only what the user wrote is escaped; the calls' own markup may well be special tokens.
        plain = escaper.escape(msgspec.to_builtins([request.messages, tools, words]))
        messages, described, words = msgspec.convert(plain, tuple[list[Message], list[Tool], list[str]])
        if described:
            words = [tools_in_words(described), *words]
        return with_instructions(written_turns(messages, syntax), words), None

    def _layout(
        self, profile: TemplateProfile, request: ChatRequest, tools: tuple[Tool, ...], rendered: str
    ) -> OutputLayout:
        choice = request.tool_choice
        reason: FinishReason = "tool_calls"
        if request.legacy_functions:
            reason = "function_call"
        if choice.mode == "required" and len(choice.names) == 1:
            reason = "stop"
        return OutputLayout(
            thinking=profile.reasoning.thinking(rendered),
            syntax=profile.syntax if tools else None,
            tools=tools,
            calls_only=bool(tools) and choice.mode == "required",
            wrappers=tuple(text for text in (profile.opening, profile.closing) if text),
            call_reason=reason,
        )


def _schemas(request: ChatRequest, tools: Sequence[Tool]) -> list[Mapping[str, Any]]:
    """Return the schemas that an answer may have to follow."""
    form = request.response_format
    of_form = [form.schema] if isinstance(form, JsonSchemaFormat) else []
    return [*of_form, *(tool.parameters for tool in tools if tool.parameters is not None)]
