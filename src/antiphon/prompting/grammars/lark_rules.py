"""Finds which rules of a Lark grammar refer to which, for grammars that the compiler has accepted.

The syntax is llguidance's variant of Lark (its ``docs/syntax.md``). Rules have lower-case names; terminals have names in capitals, or are
strings and regular expressions, and are the compiler's business.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r]+|(?:\#|//)[^\n]*)
    |(?P<line>\n)
    |(?P<value>%(?:regex|llguidance))
    |(?P<schema>%json)
    |(?P<statement>%[a-z]+)
    |(?P<text>"(?:\\.|[^"\\])*"i?)
    |(?P<regex>/(?:\\.|[^/\\])+/[imslux]*)
    |(?P<special><[^<>\s]+>)
    |(?P<terminal>_?[A-Z][A-Z0-9_-]*)
    |(?P<rule>!?[_?]?[a-z][a-z0-9_-]*)
    |(?P<number>[+-]?[0-9]+)
    |(?P<mark>->|\.\.|::|.)""",
    re.VERBOSE | re.DOTALL,
)
_BLANKS = re.compile(r"\s*")
_DECODER = json.JSONDecoder()
_HARMLESS = frozenset({"lazy", "suffix", "capture"})
_CLOSING = {"(": ")", "[": "]"}
_TERMINALS = frozenset({"terminal", "regex", "value"})


class UncheckedLarkError(ValueError):
    """The grammar uses a feature that cannot be enforced here; the message names it."""


class Token(msgspec.Struct, frozen=True):
    """A token of a grammar; one of kind ``value`` is a keyword with the JSON that follows it."""

    kind: str
    text: str


class _Rule(msgspec.Struct):
    """Ways to write a rule, each as the rules that it cannot do without; ``leads_to`` also those that it can."""

    name: str
    ways: list[set[str]]
    leads_to: set[str]


class LarkRules:
    """What can be reached from ``start``. Raises ``UncheckedLarkError`` for templates, special tokens and the like."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._rules: dict[str, _Rule] = {}
        self._imports: list[str] = []
        self._definitions: dict[str, list[Token]] = {}
        self._terminals: dict[str, set[str]] = {}
        for line in _lines(tokens):
            self._read(line)
        self._reached = self._from_start()

    @property
    def terminals(self) -> list[str]:
        """The terminals that rules use, by name or as they are written, but for literal strings: each matches itself."""
        used = {terminal: None for name in self._reached for terminal in sorted(self._terminals.get(name, ()))}
        return list(used)

    def alone(self, terminal: str) -> str:
        """Return a grammar that is one terminal, with no definitions but those that it needs."""
        needed = {terminal: None}
        waiting = [terminal]
        while waiting:
            inner = [token.text for token in self._definitions.get(waiting.pop(), ()) if token.text not in needed]
            needed.update(dict.fromkeys(inner))
            waiting += inner
        lines = [
            " ".join(token.text for token in self._definitions[name]) for name in needed if name in self._definitions
        ]
        return "\n".join([*self._imports, *lines, f"start: {terminal}", ""])

    def endless(self) -> str | None:
        """Return the name of a reachable rule that leads back to itself in every way it can be written, None if there is none."""
        left = dict.fromkeys(self._reached)
        ended: set[str] = set()
        while found := [name for name in left if any(way <= ended for way in self._rules[name].ways)]:
            ended.update(found)
            for name in found:
                del left[name]
        name = next(iter(left), None)
        passed: set[str] = set()
        while name is not None and name not in passed:
            passed.add(name)
            name = next(needed for needed in sorted(self._rules[name].ways[0]) if needed in left)
        return None if name is None else self._rules[name].name

    def _from_start(self) -> list[str]:
        reached = {"start": None}
        waiting = ["start"]
        while waiting:
            known = self._rules.get(waiting.pop())
            new = [] if known is None else sorted(name for name in known.leads_to if name not in reached)
            reached.update(dict.fromkeys(new))
            waiting += new
        return [name for name in reached if name in self._rules]

    def _read(self, line: list[Token]) -> None:
        """Read a definition or a statement."""
        first = line[0]
        if first.kind == "rule":
            self._rule(first.text.lstrip("!?"), line[1:])
        elif first.kind == "terminal":
            self._definitions[first.text] = line
        elif first.text == "%import":
            self._imports.append(" ".join(token.text for token in line))
        elif first.text not in {"%ignore", "%llguidance {}"}:
            raise _unchecked(first.text)

    def _rule(self, name: str, rest: list[Token]) -> None:
        at = _after_attributes(rest)
        if at >= len(rest) or rest[at].text != ":":
            raise _unchecked(f"the form of the rule '{name}'")
        self._terminals[name] = {token.text for token in rest[:at] if token.kind in _TERMINALS}
        _Expansion(self._rules, self._terminals, name).read(rest[at + 1 :])


class _Expansion:
    """Reads what follows a rule's colon. A part in brackets becomes a rule of its own."""

    def __init__(self, rules: dict[str, _Rule], terminals: dict[str, set[str]], name: str) -> None:
        self._rules = rules
        self._terminals = terminals
        self._name = name
        self._open: list[tuple[str, str]] = [(name, "")]
        """Rules that are being read, and what closes them."""
        rules[name] = _Rule(name, [set()], set())

    def read(self, tokens: list[Token]) -> None:
        at = 0
        while at < len(tokens):
            at = self._token(tokens, at)

    def _token(self, tokens: list[Token], at: int) -> int:
        """Read one token, and how often it may come; return the place after both."""
        token = tokens[at]
        key, closing = self._open[-1]
        if token.text in _CLOSING:
            inner = f"{self._name} ({len(self._rules)})"
            self._rules[inner] = _Rule(self._name, [set()], set())
            self._open.append((inner, _CLOSING[token.text]))
            return at + 1
        if token.text == "|":
            self._rules[key].ways.append(set())
            return at + 1
        if token.text == "->":
            return at + 2
        is_needed, after = _repetition(tokens, at + 1)
        if token.text == closing:
            self._open.pop()
            self._lead_to(key, is_needed=is_needed and closing == ")")
        elif token.kind == "rule":
            self._lead_to(token.text.lstrip("!?"), is_needed=is_needed)
        elif token.kind in _TERMINALS:
            self._terminals.setdefault(key, set()).add(token.text)
        elif token.kind != "text" and token.text != "..":
            raise _unchecked(f"'{token.text}'")
        return after

    def _lead_to(self, name: str, *, is_needed: bool) -> None:
        rule = self._rules[self._open[-1][0]]
        rule.leads_to.add(name)
        if is_needed:
            rule.ways[-1].add(name)


def _repetition(tokens: list[Token], at: int) -> tuple[bool, int]:
    """Return whether the preceding item must occur at least once, and the place after the repetition sign."""
    sign = tokens[at].text if at < len(tokens) else ""
    if sign in {"*", "?", "+"}:
        return sign == "+", at + 1
    if sign == "~":
        if tokens[at + 1].kind != "number":
            raise _unchecked("'~' outside of a terminal")
        is_range = at + 2 < len(tokens) and tokens[at + 2].text == ".."
        return int(tokens[at + 1].text) > 0, at + (4 if is_range else 2)
    if sign == "{":
        end = next(place for place in range(at, len(tokens)) if tokens[place].text == "}")
        least = tokens[at + 1]
        if least.kind != "number" and least.text != ",":
            raise _unchecked("templates")
        return least.kind == "number" and int(least.text) > 0, end + 1
    return True, at


def _after_attributes(rest: list[Token]) -> int:
    """Return the place of the colon after a rule's name; refuse attributes that would not be honoured."""
    if not rest or rest[0].text != "[":
        return 0
    end = next(place for place, token in enumerate(rest) if token.text == "]")
    for before, token in itertools.pairwise(rest[:end]):
        if before.text in {"[", ","} and token.text not in _HARMLESS:
            raise _unchecked(f"the attribute '{token.text}'")
    return end + 1


def num_definitions(tokens: Sequence[Token]) -> int:
    """Return how many rules and terminals are defined, also in a grammar that the compiler has not accepted."""
    return sum(
        token.text == ":" and (before.kind in {"rule", "terminal"} or before.text == "]")
        for before, token in itertools.pairwise(tokens)
    )


def _lines(tokens: Iterable[Token]) -> Iterator[list[Token]]:
    """Yield the tokens of each definition; one goes on where the next line begins with ``|``."""
    line: list[Token] = []
    ends = False
    for token in tokens:
        if token.kind == "line":
            ends = True
            continue
        if ends and token.text != "|" and line:
            yield line
            line = []
        ends = False
        line.append(token)
    if line:
        yield line


def lark_tokens(definition: str) -> Iterator[Token]:
    """Yield the tokens of a grammar, all but blanks and comments. Any text has tokens; whether it is a grammar, the compiler says."""
    at = 0
    while at < len(definition):
        found = _TOKEN.match(definition, at)
        assert found is not None
        assert found.lastgroup is not None
        text, at = found[0], found.end()
        if found.lastgroup == "value":
            value, at = _value(definition, at)
            text = f"{text} {value}"
        if found.lastgroup != "blank":
            yield Token(found.lastgroup, text)


def _value(definition: str, at: int) -> tuple[str, int]:
    """Return the JSON at this place, in one line, and where it ends; nothing where there is none."""
    start = _BLANKS.match(definition, at).end()  # pyright: ignore[reportOptionalMemberAccess] - matches anything
    try:
        value, end = _DECODER.raw_decode(definition, start)
    except (ValueError, RecursionError):
        return "", at
    return json.dumps(value), end


def _unchecked(what: str) -> UncheckedLarkError:
    return UncheckedLarkError(f"{what} cannot be enforced here, so it is not permitted.")
