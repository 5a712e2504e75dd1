"""Compiles JSON Schemas into grammars, and refuses keywords that a grammar cannot enforce."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

from antiphon.prompting.grammars.custom import problem_of_grammar
from antiphon.prompting.grammars.lark import in_one_line
from antiphon.prompting.grammars.trial import MAX_SCHEMA_CPU_S, UNSATISFIABLE, schema_error
from antiphon.prompting.remembered import remembered
from antiphon.prompting.schemas.bounds import bounded
from antiphon.prompting.schemas.compiler_limits import beyond_compiler, is_number
from antiphon.prompting.schemas.dialects import in_latest_terms
from antiphon.prompting.schemas.exact import InexactError, exact_rules, has_inexact
from antiphon.prompting.schemas.one_of import with_exclusive_alternatives
from antiphon.prompting.schemas.references import ExpandedSchemaError, with_plain_references
from antiphon.prompting.schemas.termination import never_ends
from antiphon.prompting.schemas.traversal import DATA, NAMED_SCHEMAS, has_more_than, rewritten, schemas_in
from antiphon.prompting.schemas.well_formed import malformed, with_whole_counts
from antiphon.protocol.chat import ChatRequest, JsonSchemaFormat, Tool
from antiphon.protocol.errors import ApiError

MAX_SCHEMA_CHARS = 200_000

_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One layout, the one models see most in training: a small model given free whitespace may write nothing else."""

_ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}
"""None by number: with them an additional name could be a declared one, written another way."""
_BY_NUMBER = ("\\u00", "\x7f")
"""In a schema's text: characters that JSON texts have only as escapes by number. Such a schema allows these escapes."""
_BY_NUMBER_IN_PATTERN = re.compile(
    r"\\\\(?:[av]|x(?:[01][0-9a-fA-F]|7[fF])|u00(?:[01][0-9a-fA-F]|7[fF])|[xu]\{0*(?:[01]?[0-9a-fA-F]|7[fF])\})"
)
"""The same characters as the escapes of a regular expression, within a schema's text."""
_UNENFORCED = ("extends", "disallow", "divisibleBy", "nullable", "discriminator")
"""Keywords of older drafts and of OpenAPI that would restrict output and that llguidance passes over."""

_MOST_WITH_FRACTION = 10**15
"""Numbers beyond have no thousandths."""
_MOST_WRITTEN_OUT = 10**22
"""A whole number beyond keeps its exponent."""
_REASONS = {"minProperties": " Of several names that it does not declare, two may be the same."}
_TOO_DEEP = "it is nested too deeply."
_PLACE = re.compile(r"^at \d+\(\d+\): failed to compile JSON schema: ")
_OF_PATTERNS = ("regex parse error", "lookarounds not supported", "determine if regex")
_OF_DIGITS = ("has too many digits", "Failed to generate regex")
_COUNTING = frozenset({"multipleOf", "pattern", "patternProperties", "format", "maxLength", "minLength"})
_RANGES = _COUNTING | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
"""Keywords that the compiler turns into regular expressions of its own."""
_UNIMPLEMENTED = re.compile(r"Unimplemented keys: (\[.*\])")


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return the schema as text for ``%json`` in a grammar, with the layout of the output pinned. Results are remembered."""
    return _text_of(_written(schema))


def bounded_schema_text(schema: Mapping[str, Any]) -> str:
    """Return the same for a model that may run away; see ``within_bounds``. Results are remembered."""
    return _bounded_text_of(_written(schema))


def schema_rules(name: str, schema: Mapping[str, Any], *, is_bounded: bool = False) -> list[str]:
    """Return Lark rules of which ``name`` matches JSON that satisfies the schema; ``is_bounded`` as ``bounded_schema_text``."""
    return _rules_of(name, (bounded_schema_text if is_bounded else schema_text)(schema))


@remembered
def _rules_of(name: str, text: str) -> list[str]:
    schema = json.loads(text)
    if not has_inexact(schema):
        return [f"{name}: %json {text}"]
    del schema["x-guidance"]
    return exact_rules(name, schema, _with_layout)


def _written(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False)


@remembered
def _text_of(written: str) -> str:
    return _with_layout(_plain(json.loads(written)))


@remembered
def _bounded_text_of(written: str) -> str:
    return _with_layout(within_bounds(json.loads(written)))


def _with_layout(schema: Mapping[str, Any]) -> str:
    text = json.dumps({**schema, "x-guidance": _LAYOUT | _ESCAPES}, ensure_ascii=False)
    return (
        json.dumps({**schema, "x-guidance": _LAYOUT}, ensure_ascii=False)
        if any(mark in text for mark in _BY_NUMBER) or _BY_NUMBER_IN_PATTERN.search(text)
        else text
    )


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an equivalent schema in the form that llguidance accepts."""
    without = rewritten(
        with_plain_references(in_latest_terms(dict(schema))),
        lambda part: _with_closed_ends(_with_integers(with_whole_counts(_without_empty_rules(part)))),
    )
    return with_exclusive_alternatives(cast("dict[str, Any]", without))


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """Return the schema that generated arguments follow: always an object.

    Where a function leaves open which further keys it takes, none are generated: a model only invents them.
    """
    shown = shown_parameters(tool)
    is_open = not any(key in shown for key in _LEAVE_OPEN)
    return {**shown, "additionalProperties": False} if is_open and "properties" in shown else shown


def within_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with bounds for a model that may run away, unless nothing would satisfy both."""
    plain = _plain(schema)
    for with_patterns in (True, False):
        within = cast("dict[str, Any]", bounded(plain, with_patterns=with_patterns))
        if not _problem_of(_with_layout(within))[0]:
            return within
    return plain


_LEAVE_OPEN = ("additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref", "minProperties")


def shown_parameters(tool: Tool) -> dict[str, Any]:
    """Return a function's parameters as the model sees them."""
    if tool.parameters is None:
        return {"type": "object", "properties": {}}
    return tool.parameters if "type" in tool.parameters else {**tool.parameters, "type": "object"}


def check_schema(
    schema: Mapping[str, Any], *, what: str, param: str, code: str | None = None, budget_s: float = MAX_SCHEMA_CPU_S
) -> float:
    """Refuse a schema that the grammar could not enforce to the letter; return the seconds that it takes to compile.

    ``what`` names it in the message (``response_format 'X'``). Waits for another process, milliseconds as a rule and
    ``MAX_SCHEMA_CPU_S`` of processor time at most; results are remembered.
    Raises ``ApiError`` 400 naming the keyword, or that it takes more than ``budget_s``.
    """
    cpu_s = 0.0
    try:
        if has_more_than(schema, MAX_SCHEMA_CHARS):
            problem = f"it has more than {MAX_SCHEMA_CHARS} characters, which exceeds the limit."
        else:
            problem, cpu_s = _problem_of(schema_text(schema))
    except RecursionError:
        problem = _TOO_DEEP
    except ExpandedSchemaError:
        problem = "its references lead to more parts of it than can be compiled; use '$defs' for what is used twice."
    if not problem and cpu_s > budget_s:
        problem = f"the schemas of this request take more than {MAX_SCHEMA_CPU_S} seconds to compile together."
    if problem:
        raise ApiError(400, f"Invalid schema for {what}: {problem}", param=param, code=code)
    return cpu_s


@remembered
def _problem_of(text: str) -> tuple[str | None, float]:
    """Return what is wrong with a schema, None if nothing, and the processor seconds that compiling it takes."""
    schema = json.loads(text)
    problem = _problem_before_compiling(schema)
    if problem:
        return problem, 0.0
    try:
        rules = _rules_of("start", text)
    except InexactError as inexact:
        return str(inexact), 0.0
    error, cpu_s = schema_error("\n".join(rules) + "\n")
    return _translate(error, schema), cpu_s


def _problem_before_compiling(schema: dict[str, Any]) -> str | None:
    keyword = _unenforced(schema)
    if keyword:
        return _refusal(keyword) + _REASONS.get(keyword, "")
    wrong = malformed(schema)
    if wrong:
        return wrong
    hostile = beyond_compiler(schema)
    if hostile:
        return hostile
    if never_ends(schema):
        return (
            "only an endless value would satisfy it, or a part of it: a '$ref' leads back to itself without a way out."
        )
    return None


def _translate(error: str, schema: dict[str, Any]) -> str | None:
    """Return llguidance's error in terms of the keyword that is at fault."""
    one_line = _PLACE.sub("", in_one_line(error))
    unimplemented = _UNIMPLEMENTED.search(error)
    used = {key for part in schemas_in(schema) for key in part}
    problem = one_line or None
    if unimplemented:
        problem = _refusal(*json.loads(unimplemented[1]))
    elif any(words in error for words in _COMPOSED):
        problem = next(advice for words, advice in _COMPOSED.items() if words in error)
    elif "Unknown format" in error:
        name = error.partition("Unknown format: ")[2].split()[0]
        problem = _refusal("format") + f" No format '{name}' is known; use 'pattern'."
    elif any(words in error for words in _OF_PATTERNS):
        patterns = used & {"pattern", "patternProperties"}
        problem = f"{_refusal(*sorted(patterns))} {one_line}" if patterns else _refusal(*sorted(used & _RANGES))
    elif any(words in error for words in _OF_DIGITS):
        blamed = {"multipleOf"} if "multipleOf" in error else used & _RANGES
        problem = _refusal(*sorted(blamed)) + " Its numbers have too many digits."
    elif "fuel exhausted" in error:
        problem = _refusal(*sorted(used & _COUNTING)) + " It takes too many steps to decide what fits."
    elif error == UNSATISFIABLE:
        problem = "no value satisfies it."
    elif "recursion limit" in error:
        problem = _TOO_DEEP
    return problem


def _refusal(*keywords: str) -> str:
    names = ", ".join(f"'{keyword}'" for keyword in keywords)
    return f"{names} cannot be enforced here{', so it is' if len(keywords) == 1 else ', so they are'} not permitted."


_COMPOSED = {
    "oneOf constraints": _refusal("oneOf") + " Its alternatives may overlap; use 'anyOf'.",
    "min/maxProperties": _refusal("minProperties", "maxProperties")
    + " They are where all declared properties are required.",
}
_EMPTY_RULES: tuple[tuple[str, Any], ...] = (
    ("uniqueItems", False),
    ("nullable", False),
    ("propertyNames", True),
    ("propertyNames", {}),
    ("propertyNames", {"type": "string"}),
)


def _without_empty_rules(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop keywords set to a value that asks for nothing, which llguidance would refuse by their name alone."""
    return {key: value for key, value in schema.items() if (key, value) not in _EMPTY_RULES}


def _with_integers(schema: dict[str, Any]) -> dict[str, Any]:
    """Write integers as such in data, also 5.2e16."""
    return {key: _as_integers(value) if key in {"const", "enum"} else value for key, value in schema.items()}


def _with_closed_ends(schema: dict[str, Any]) -> dict[str, Any]:
    """Begin or end a range next to an excluded integer, by a step of 12 digits or a thousandth, where fractions are allowed.

    The compiler takes 0 for a number above 0 and below 0.5, also where the two are said in different parts of an ``allOf``.
    """
    made = _with_numbers_as_ends(schema)
    if made.get("type") == "integer":
        return made
    for excluded, included, side in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        end: Any = made.get(excluded)
        if is_number(end) and float(end).is_integer() and abs(end) < _MOST_WITH_FRACTION and included not in made:
            del made[excluded]
            made[included] = float(int(end) + side * Decimal(1).scaleb(min(len(str(abs(int(end)))) - 13, -3)))
    return made


def _with_numbers_as_ends(schema: dict[str, Any]) -> dict[str, Any]:
    """Write ``exclusiveMinimum: true`` with a ``minimum``, as in draft 4, in the form of later drafts."""
    made = dict(schema)
    for excluded, included in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        says = made.get(excluded)
        if isinstance(says, bool):
            del made[excluded]
            if says and included in made:
                made[excluded] = made.pop(included)
    return made


def _as_integers(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_integers(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _as_integers(item) for key, item in cast("dict[str, Any]", value).items()}
    is_written_out = isinstance(value, float) and value.is_integer() and abs(value) < _MOST_WRITTEN_OUT
    return int(value) if is_written_out else value


def _unenforced(schema: Any) -> str | None:
    """Return a keyword that restricts and that llguidance passes over."""
    if isinstance(schema, list):
        return next(filter(None, map(_unenforced, cast("list[Any]", schema))), None)
    if not isinstance(schema, dict):
        return None
    part = cast("dict[str, Any]", schema)
    for key, value in part.items():
        if key in _UNENFORCED or (key == "required" and isinstance(value, bool)):
            return key
        if (key == "format" and not isinstance(value, str)) or (key == "minProperties" and _needs_new_names(part)):
            return key
        if key in DATA:
            continue
        named = key in NAMED_SCHEMAS and isinstance(value, dict)
        found = _unenforced(list(cast("dict[str, Any]", value).values()) if named else value)
        if found:
            return found
    return None


def _needs_new_names(schema: dict[str, Any]) -> bool:
    """Whether ``minProperties`` asks for two or more names that are not declared: the compiler counts one that comes twice as two."""
    declared = schema.get("properties")
    least = schema["minProperties"]
    return is_number(least) and least > 1 + (len(cast("dict[str, Any]", declared)) if isinstance(declared, dict) else 0)


def check_request(request: ChatRequest) -> None:
    """Refuse a request whose schemas or grammars cannot be enforced. Raises ``ApiError`` 400, naming the keyword."""
    form = request.response_format
    budget_s: float = MAX_SCHEMA_CPU_S
    if isinstance(form, JsonSchemaFormat):
        budget_s -= check_schema(form.schema, what=f"response_format '{form.name}'", param="response_format")
    if request.tool_choice.mode == "none":
        return
    for number, tool in enumerate(request.tools):
        path = f"functions[{number}].parameters" if request.legacy_functions else f"tools[{number}].function.parameters"
        if tool.kind == "function":
            what = f"function '{tool.name}'"
            code = "invalid_function_parameters"
            budget_s -= check_schema(arguments_schema(tool), what=what, param=path, code=code, budget_s=budget_s)
        elif tool.grammar is not None:
            _check_grammar(tool, f"tools[{number}].custom.format.grammar.definition")


def _check_grammar(tool: Tool, param: str) -> None:
    assert tool.grammar is not None
    problem = problem_of_grammar(*tool.grammar)
    if problem:
        raise ApiError(400, f"Invalid grammar for custom tool '{tool.name}': {problem}", param=param)
