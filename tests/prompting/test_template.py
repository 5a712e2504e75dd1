"""Templates render as `transformers` renders them, and hostile ones stay within bounds."""

from datetime import UTC, datetime

import pytest

from antiphon.prompting.errors import TemplateBrokenError, TemplateRefusedError
from antiphon.prompting.templates import budget, template
from antiphon.prompting.templates.template import ChatTemplate

HELLO = [{"role": "user", "content": "Hello"}]


def render(source: str, **variables: object) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(HELLO, **variables)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>Hello"),
        ("{% for m in messages %}\n    {% if loop.first %}\nx\n    {% endif %}\n{% endfor %}", "x\n"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "Hello"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ 'a' ~ 1 ~ none }}", "a1None"),
        ("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "TrueTrueTrue"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('é') }}", "[é]"),
    ],
)
def test_template_language(source: str, expected: str) -> None:
    """Whitespace control, JSON, loop controls and the usual globals behave as templates expect."""
    assert render(source) == expected


def test_clock() -> None:
    """``strftime_now`` shows the given clock."""
    source = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2026, 1, 2, tzinfo=UTC))
    assert source.render([]) == "02 Jan 2026"


def test_no_tools() -> None:
    """Without tools the variable is None, or left undefined for templates that only ask whether it is defined."""
    assert render("{{ tools is none }}") == "True"
    assert render("{% if tools is defined %}{% for t in tools %}{% endfor %}{% endif %}Hello") == "Hello"


def test_refusal_keeps_the_templates_words() -> None:
    """``raise_exception`` surfaces as a refusal with the template's own message."""
    with pytest.raises(TemplateRefusedError, match="must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_broken_source() -> None:
    """A template that is not Jinja is refused when it is loaded."""
    with pytest.raises(TemplateBrokenError, match="not valid Jinja"):
        ChatTemplate("{% if %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.x }}",
    ],
)
def test_sandbox(source: str) -> None:
    """Python's internals are out of reach, and values cannot be changed."""
    with pytest.raises(TemplateRefusedError):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_endless_template(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that runs for ages meets a deadline."""
    monkeypatch.setattr(template, "RENDER_LIMIT_S", 0.05)
    with pytest.raises(TemplateBrokenError, match="too long"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ 'a' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_greedy_template(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template cannot use up memory."""
    monkeypatch.setattr(budget, "MAX_CHARS", 1_000_000)
    monkeypatch.setattr(template, "MAX_CHARS", 1_000_000)
    with pytest.raises(TemplateBrokenError):
        render(source)
