"""No operation of a template uses up memory, be it a single one or many together."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.filters import FILTERS

from antiphon.prompting.errors import PromptError
from antiphon.prompting.templates import budget, template
from antiphon.prompting.templates.operations import UNMEASURED
from antiphon.prompting.templates.template import ChatTemplate

LIMIT = 300_000
MOST_BYTES = 24_000_000
HELLO = [{"role": "user", "content": "Hello"}]
START = (
    "{% set s = 'a' * 9999 %}{% set t = s ~ '\t' * 9999 %}{% set l = [s] * 999 %}{% set n = namespace(v='', w=[]) %}"
)

GREEDY = {
    "replace": "{{ s.replace('a', s) }}",
    "replace nothing": "{{ s.replace('', s) }}",
    "replace filter": "{{ s | replace('a', s) }}",
    "replace filter by name": "{{ s | replace(old='a', new=s) }}",
    "join": "{{ s.join(l) }}",
    "join filter": "{{ l | join(s) }}",
    "join letters": "{{ s.join(s) }}",
    "join lazily": "{{ l | map('upper') | join }}",
    "join attribute": "{{ messages | map(attribute='content') | map('replace', 'l', s * 9) | join(s * 9) }}",
    "tojson": "{{ l | tojson }}",
    "tojson indent": "{{ ([[]] * 99999) | tojson(indent=99999) }}",
    "tojson indent text": "{{ ([[]] * 9999) | tojson(indent=s) }}",
    "tojson separators": "{{ ([1] * 9999) | tojson(separators=(s, s)) }}",
    "indent": "{{ ('\n' * 9999) | indent(9999, true, true) }}",
    "indent text": "{{ ('\n' * 9999) | indent(s, true, true) }}",
    "center": "{{ s | center(99999999) }}",
    "ljust": "{{ s.ljust(999999) }}" * 9,
    "zfill": "{{ '1'.zfill(99999999) }}",
    "expandtabs": "{{ t.expandtabs(9999) }}",
    "translate": "{{ s.translate({97: s}) }}",
    "format": "{{ '%9999d' * 9999 % ([1] * 9999) }}",
    "format tuple": "{{ ('%s' * 999) % (s, s, s) }}",
    "format mapping": "{{ ('%(a)s' * 999) % {'a': s} }}",
    "format star": "{{ '%*d' % (99999999, 1) }}",
    "format filter": "{{ ('%s' * 2) | format(l, l) }}",
    "format precision": "{{ '%.99999f' * 999 % 1 }}",
    "str.format": "{{ ('{0}' * 9999).format(s) }}",
    "str.format width": "{{ '{:99999999}'.format(1) }}",
    "str.format nested": "{{ '{:{}}'.format(1, 99999999) }}",
    "str.format_map": "{{ ('{a}' * 9999).format_map({'a': s}) }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "products": "{% set n.v = 9 %}{% for i in range(99) %}{% set n.v = n.v * n.v %}{% endfor %}{{ n.v }}",
    "round": "{{ 5 | round(-99999999) }}",
    "to_bytes": "{{ (5).to_bytes(999999999, 'big') }}",
    "encode": "{{ s.encode().replace('a'.encode(), s.encode()) }}",
    "text of a list": "{{ l }}",
    "string filter": "{{ l | string }}",
    "concatenated list": "{{ l ~ '' }}",
    "pprint": "{{ l | pprint }}",
    "list of letters": "{% for i in range(99) %}{% set n.w = n.w + [s | list] %}{% endfor %}",
    "split": "{% for i in range(99) %}{% set n.w = n.w + [s.split('a')] %}{% endfor %}",
    "splitlines": "{% for i in range(99) %}{% set n.w = n.w + [('\n' * 9999).splitlines()] %}{% endfor %}",
    "slices": "{% for i in range(9999) %}{% set n.w = n.w + [s[i % 9:]] %}{% endfor %}",
    "batch": "{{ s | batch(2, s) | list }}",
    "slice filter": "{{ s | slice(99999, s) | list }}",
    "wordwrap": "{{ s | wordwrap(1, true, s) }}",
    "sum of lists": "{{ ([[1] * 99] * 9999) | sum(start=[]) | length }}",
    "product of lists": "{{ l * 9999 }}",
    "doubling": "{% set n.v = s %}{% for i in range(60) %}{% set n.v = n.v ~ n.v %}{% endfor %}",
    "adding": "{% set n.v = s %}{% for i in range(60) %}{% set n.v = n.v + n.v %}{% endfor %}",
    "set blocks": "{% set n.v = s %}{% for i in range(60) %}{% set n.v %}{{ n.v }}{{ n.v }}{% endset %}{% endfor %}",
    "macros": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set n.v = s %}{% for i in range(60) %}{% set n.v = m(n.v) %}{% endfor %}",
    "filter blocks": "{% filter replace('a', s) %}{{ s }}{% endfilter %}",
    "nested lists": "{% set n.v = [s] %}{% for i in range(60) %}{% set n.v = [n.v, n.v] %}{% endfor %}{{ n.v == n.v }}",
    "nested tuples": "{% set n.v = (s, s) %}{% for i in range(60) %}{% set n.v = (n.v, n.v) %}{% endfor %}{{ {n.v: 1} }}",
    "nested mappings": "{% set n.v = {'a': s} %}{% for i in range(60) %}{% set n.v = {'a': n.v, 'b': n.v} %}{% endfor %}{{ n.v | tojson }}",
    "sort": "{% for i in range(999) %}{% set n.w = n.w + [l | sort] %}{% endfor %}",
    "urlencode": "{{ ('ä' * 9999 * 9) | urlencode }}" * 9,
    "escape": "{{ ('\"' * 99999) | e }}",
    "output": "{% for i in range(99999) %}{{ s }}{% endfor %}",
    "strftime": "{{ strftime_now('%c' * 99999) }}",
    "constants": "{{ 'a' | center(99999999) }}{{ 'a' * 99999999 }}",
    "upper": "{{ ('ΐ' * 99999).upper() }}" * 9,
    "dict": "{% for i in range(9999) %}{% set n.w = n.w + [dict(a=i, **{'b' * 9999: 1})] %}{% endfor %}",
}  # fmt: skip


def peak_of(source: str) -> int:
    """Return the most bytes that rendering takes; the text is refused or short."""
    tracemalloc.start()
    try:
        assert len(ChatTemplate(source).render(HELLO)) <= 2 * LIMIT
    except PromptError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_CHARS", LIMIT)
    monkeypatch.setattr(template, "MAX_CHARS", LIMIT)
    monkeypatch.setattr(template, "RENDER_LIMIT_S", 600.0)


@pytest.mark.parametrize("name", GREEDY)
def test_memory_is_bounded(name: str) -> None:
    """Each way to build something huge ends within some bytes for each character of the limit, and in a fraction of its steps."""
    assert peak_of(START + GREEDY[name]) < MOST_BYTES


VALUES = ("s", "l", "t", "messages", "9999", "'a'", "(s, l)", "{'a': s}", "n.v")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(sorted(FILTERS)), st.lists(st.sampled_from(VALUES), max_size=2)).map(
                lambda f: f" | {f[0]}({', '.join(f[1])})"
            ),
            st.tuples(
                st.sampled_from(
                    ("replace", "join", "split", "ljust", "expandtabs", "format", "zfill", "translate", "center")
                ),
                st.lists(st.sampled_from(VALUES), max_size=2),
            ).map(lambda m: f".{m[0]}({', '.join(m[1])})"),
            st.tuples(st.sampled_from(("+", "*", "~", "%")), st.sampled_from(VALUES)).map(lambda o: f" {o[0]} {o[1]}"),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(VALUES),
)
def test_any_operations(operations: list[str], value: str) -> None:
    """The same for operations of every kind one after the other."""
    expression = f"({value})"
    for operation in operations:
        expression = f"({expression}{operation})"
    assert peak_of(START + "{{ " + expression + " }}") < MOST_BYTES


def test_every_filter_is_measured() -> None:
    """No filter of the environment is Jinja's own, but for those that make nothing."""
    filters: Any = ChatTemplate("")._environment.filters
    assert {name for name, function in filters.items() if function is FILTERS.get(name)} <= UNMEASURED


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages[0].content[1:3] ~ messages[0]['content'][:1] ~ 'abc'[::-1] }}", "elHcba"),
        ("{{ [1, (2, 3), {'a': [4]}] }}", "[1, (2, 3), {'a': [4]}]"),
        ("{% set a, b = 'x', 'y' %}{% for k, v in {'p': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ a }}{{ b }}", "p1xy"),
        ("{{ 'a-b'.split('-')[1] }}{{ ', '.join(['x', 'y']) }}{{ 'a' * 3 }}{{ '%s=%d' % ('n', 3) }}", "bx, yaaan=3"),
        ("{{ messages | map(attribute='role') | join(',') }}{{ [3, 1] | sort | first }}{{ '{} {}'.format('a', 1) }}", "user1a 1"),
        ("{% set x %}{{ none }}{{ 1.5 }}{{ true }}{% endset %}{{ x | replace('None', '-') }}", "-1.5True"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages[-1:][0].role }}", "1user"),
        ("{{ {'b': 1, 'a': 2} | dictsort }}{{ {'a': 1} | items | list }}{{ 'x' | indent(2, true) }}", "[('a', 2), ('b', 1)][('a', 1)]  x"),
    ],
)  # fmt: skip
def test_usual_operations(source: str, expected: str) -> None:
    """What chat templates do is as it was."""
    assert ChatTemplate(source).render(HELLO) == expected
