"""The grammar that generated text must follow, for each kind of request."""

import json
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from antiphon.prompting.grammars.lark import ANY_TEXT, SOME_TEXT, LarkWriter, of_user, regex_literal
from antiphon.prompting.reasoning import Thinking
from antiphon.prompting.schemas.compile import arguments_schema, schema_rules
from antiphon.prompting.tool_calls.key_values import KeyValueSyntax, is_plain_text, properties_of
from antiphon.prompting.tool_calls.scanning import whole_tags
from antiphon.prompting.tool_calls.syntax import ToolSyntax
from antiphon.protocol.chat import JsonObjectFormat, JsonSchemaFormat, Tool

MAX_CALLS = 128


class CallRules(msgspec.Struct, frozen=True, kw_only=True):
    """What calls are allowed. ``required``: the answer is calls; otherwise it is text, calls, or calls after text."""

    syntax: ToolSyntax
    tools: tuple[Tool, ...]
    required: bool
    max_calls: int = MAX_CALLS


def answer_grammar(
    control_ids: Mapping[str, int],
    *,
    calls: CallRules | None,
    form: JsonSchemaFormat | JsonObjectFormat | None,
    thinking: Thinking | None,
    around: tuple[str, str] = ("", ""),
    is_bounded: bool = False,
) -> str | None:
    """Return the grammar for an answer, or None when any text will do.

    With a ``form`` the text of the answer is JSON. A model that thinks may do so before whatever is asked of it.
    ``around`` is the literal text before and after an answer that is not calls. With ``is_bounded``, JSON keeps to
    bounds where its schema sets none.
    """
    if form is None and calls is None:
        return None
    return _Grammar(LarkWriter(control_ids), around, is_bounded=is_bounded).build(calls, form, thinking)


class _Grammar:
    def __init__(self, writer: LarkWriter, around: tuple[str, str], *, is_bounded: bool) -> None:
        self._is_bounded = is_bounded
        self._opening = writer.literal(around[0])
        # Text cannot run into a control token, but would swallow a closing in plain letters.
        self._closing = writer.literal(around[1]) if writer.is_control(around[1]) else ""
        self._literal = writer.literal
        self._is_control = writer.is_control
        self._up_to_control = writer.up_to_control
        self._key_values: KeyValueSyntax | None = None
        self._rules: list[str] = []
        self._parts: list[dict[str, str]] = []
        self._unclosed: list[str] = []
        """Calls whose input nothing but the answer's end ends."""

    def build(
        self, calls: CallRules | None, form: JsonSchemaFormat | JsonObjectFormat | None, thinking: Thinking | None
    ) -> str:
        body = "answer"
        if thinking is not None:
            body = self._thought(thinking)
        self._rules.append(f"start: {body}")
        self._answer(calls, form)
        lark = "\n".join(self._rules) + "\n"
        if not self._parts:
            return lark
        return json.dumps({"grammars": [{"name": "answer", "lark_grammar": lark}, *self._parts]})

    def _thought(self, thinking: Thinking) -> str:
        close = self._literal(thinking.close.strip())
        if self._is_control(thinking.close.strip()):
            self._rules += [f"thought: THOUGHT? {close}", f"THOUGHT: {SOME_TEXT}"]
        else:
            self._rules += [f"thought[lazy]: {ANY_TEXT} {close}"]
        self._rules += ["gap: GAP?", r"GAP: /[ \n]{1,4}/"]
        if thinking.begun:
            return "thought gap answer"
        return f"({self._literal(thinking.open.strip())} thought gap)? answer"

    def _answer(self, calls: CallRules | None, form: JsonSchemaFormat | JsonObjectFormat | None) -> None:
        if form is not None:
            schema = form.schema if isinstance(form, JsonSchemaFormat) else {"type": "object"}
            self._rules += schema_rules("json", schema, is_bounded=self._is_bounded)
        if calls is None:
            self._rules.append(f"answer: {self._wrapped('json')}")
            return
        self._calls(calls)
        trigger = f"{self._literal(calls.syntax.space)} {self._literal(calls.syntax.trigger)}"
        if calls.required:
            self._rules.append(f"answer: {trigger} calls")
        elif form is not None:
            self._rules.append(f"answer: {self._wrapped('json')} | {trigger} calls")
        else:
            self._rules += self._choice(calls.syntax, trigger)

    def _wrapped(self, text: str) -> str:
        return f"{self._opening} {text} {self._closing}"

    def _choice(self, syntax: ToolSyntax, trigger: str) -> list[str]:
        """Return rules for text, or calls, or calls after text."""
        if self._opening:
            return [f"answer: {self._wrapped('TEXT?')} | {trigger} calls", f"TEXT: {SOME_TEXT}"]
        if self._is_control(syntax.trigger):
            mark = self._literal(syntax.trigger)
            return [f"answer: TEXT? {self._closing} | TEXT? {mark} calls", f"TEXT: {SOME_TEXT}"]
        if syntax.anywhere:
            mark = self._literal(syntax.trigger)
            return ["answer: TEXT | head calls", f"TEXT: {ANY_TEXT}", f"head[lazy]: {ANY_TEXT} {mark}"]
        other = f"{ANY_TEXT} & ~/[ \\n]*{_escape(syntax.trigger)}(?s:.*)/"
        return [f"answer: TEXT | {trigger} calls", f"TEXT: {other}"]

    def _calls(self, rules: CallRules) -> None:
        syntax = rules.syntax
        self._key_values = syntax.key_values
        between = syntax.between if rules.max_calls > 1 else None
        # Text that follows every call, last or not, is part of the call: free text ends where it begins.
        shared = syntax.tail if between is None else whole_tags(syntax.shared)
        repeated: list[str] = []
        last: list[str] = []
        for number, tool in enumerate(rules.tools):
            is_last = tool.kind == "custom" and not syntax.ends_inputs
            self._call(syntax, tool, number, syntax.tail if is_last else shared)
            (last if is_last else repeated).append(f"call_{number}")
        lead = self._literal(syntax.lead[len(syntax.trigger) :])
        more = earlier = ""
        if between is not None and repeated:
            separator = self._literal(between[len(shared) :])
            more = f" ({separator} call){{0,{rules.max_calls - 1}}}"
            earlier = f"(call {separator}){{0,{rules.max_calls - 1}}} "
        turns: list[str] = []
        if repeated:
            self._rules.append(f"call: {' | '.join(repeated)}")
            turns.append(f"{lead} call{more} {self._literal(syntax.tail[len(shared) :])}")
        if last or self._unclosed:
            turns.append(f"{lead} {earlier}({' | '.join([*last, *self._unclosed])})")
        self._rules.append(f"calls: {' | '.join(turns)}")

    def _call(self, syntax: ToolSyntax, tool: Tool, number: int, shared: str) -> None:
        parts: list[str] = []
        pending = ""
        for place, slot in enumerate(syntax.slots):
            after = slot.after + (shared if place == len(syntax.slots) - 1 else "")
            match slot.kind:
                case "name":
                    # One literal with what follows, so that no name can be the beginning of another.
                    pending = tool.name + after
                    continue
                case "arguments":
                    value = self._arguments(tool, number, after)
                case "id":
                    value = f"/[a-zA-Z0-9]{{9}}/ {self._literal(after)}"
                case "number":
                    value = f"/[0-9]{{1,3}}/ {self._literal(after)}"
            if slot.kind == "arguments" and tool.kind == "custom" and self._may_stay_open(syntax, after):
                self._unclosed.append(" ".join([*parts, self._literal(pending), self._input(tool, number)]))
            parts += [self._literal(pending), value]
            pending = ""
        self._rules.append(f"call_{number}: {' '.join([*parts, self._literal(pending)])}")

    def _pair_rules(self, key_values: KeyValueSyntax, tool: Tool, number: int) -> None:
        """Write rules for key-value arguments in the order of the schema; optional ones may be left out."""
        required = cast("list[str]", (tool.parameters or {}).get("required") or [])
        properties = properties_of(tool)
        for place, (key, schema) in enumerate(properties.items()):
            value = self._pair_value(key_values, schema, f"{number}_{place}")
            self._rules.append(f"pair_{number}_{place}: {self._literal(key + key_values.assign)} {value}")
            for state, mark in (("open", key_values.first), ("more", key_values.separator)):
                taken = f"{self._literal(mark)} pair_{number}_{place} more_{number}_{place + 1}"
                skipped = "" if key in required else f" | {state}_{number}_{place + 1}"
                self._rules.append(f"{state}_{number}_{place}: {taken}{skipped}")
        self._rules += [f'{state}_{number}_{len(properties)}: ""' for state in ("open", "more")]

    def _pair_value(self, key_values: KeyValueSyntax, schema: Mapping[str, Any], name: str) -> str:
        if not (key_values.raw and is_plain_text(schema)):
            self._rules += schema_rules(f"value_{name}", schema)
            return f"value_{name} {self._literal(key_values.ending)}"
        choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        if choices:
            return f"({' | '.join(self._literal(choice + key_values.ending) for choice in choices)})"
        return self._free_text(f"value_{name}", key_values.ending)

    def _arguments(self, tool: Tool, number: int, after: str) -> str:
        """Return what matches a call's arguments and the literal text after them."""
        rule, following = f"arguments_{number}", self._literal(after)
        if tool.kind == "function" and self._key_values is not None:
            self._pair_rules(self._key_values, tool, number)
            return f"open_{number}_0 {following}"
        if tool.kind == "function":
            self._rules += schema_rules(rule, arguments_schema(tool), is_bounded=self._is_bounded)
            return f"{rule} {following}"
        if tool.grammar is None:
            return self._free_text(rule, after)
        kind, definition = tool.grammar
        if kind == "lark":
            self._parts.append({"name": rule, "lark_grammar": of_user(definition)})
        elif after and not self._is_control(after):
            return self._ended_by(rule, regex_literal(definition), after)
        return f"{self._input(tool, number)} {following}"

    def _may_stay_open(self, syntax: ToolSyntax, after: str) -> bool:
        """Whether the end of the answer may end a call's input: where plain letters close it, which it could swallow."""
        return syntax.names_first and bool(after) and not self._is_control(after)

    def _input(self, tool: Tool, number: int) -> str:
        """Return what matches a custom tool's input, and all of it that there is."""
        match tool.grammar:
            case None:
                return ANY_TEXT
            case "regex", pattern:
                return regex_literal(pattern)
            case _:
                return f"@arguments_{number}"

    def _free_text(self, rule: str, after: str) -> str:
        """Return what matches any text up to and with ``after``."""
        if after and not self._is_control(after):
            return self._ended_by(rule, ANY_TEXT, after)
        self._rules.append(f"{rule.upper()}: {SOME_TEXT}")
        return f"{rule.upper()}? {self._literal(after)}"

    def _ended_by(self, rule: str, terminal: str, after: str) -> str:
        """Return what matches a terminal and what follows it, which begins with plain letters that the terminal may match too."""
        letters, rest = self._up_to_control(after)
        if rest:
            # Text ends at the control token and no sooner, as the letters before it may occur in the text as well.
            self._rules.append(f"{rule.upper()}: {terminal} {self._literal(letters)}")
            return f"{rule.upper()} {self._literal(rest)}"
        # Up to what follows, though the terminal might match that too and never end.
        self._rules.append(f"{rule}[lazy]: {terminal} {self._literal(letters)}")
        return rule


def _escape(text: str) -> str:
    return "".join(f"\\{char}" if char in '/\\.^$|?*+()[]{}"' else ("\\n" if char == "\n" else char) for char in text)
