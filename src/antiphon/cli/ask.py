"""``antiphon ask``: one question, one answer."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import BaseModel

from antiphon.cli import log_file
from antiphon.cli.connection import Server, dollars, piped
from antiphon.cli.fields import shape_of
from antiphon.cli.markdown import Printer
from antiphon.cli.material import Material, Template, content_of, read_template, write_template
from antiphon.cli.offered import OfferedTools
from antiphon.cli.output import print_json
from antiphon.errors import AntiphonError
from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.reply import Reply, TextDelta, TruncatedAnswerWarning
from antiphon.toolkit.clients import DEFAULT_MODEL
from antiphon.toolkit.tools.json_shape import JsonShape
from antiphon.toolkit.tools.tool import Tool


@Parameter(name="*")
@dataclass(frozen=True)
class AnswerForm:
    """The options that say in which form the answer is wanted, and what is printed with it."""

    schema: Annotated[
        str | None,
        Parameter(help="Answer with JSON of this shape: 'name, age int', or a JSON Schema, as text or a .json file."),
    ] = None
    json: Annotated[bool, Parameter(negative="", help="Print text, usage, cost and times as one JSON object.")] = False
    stats: Annotated[bool, Parameter(negative="", help="Print usage, cost and times to standard error.")] = False
    plain: Annotated[bool, Parameter(negative="", help="Do not render Markdown at a terminal.")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class Kept:
    """The options about what is kept: a conversation that goes on, a template."""

    continue_: Annotated[
        bool, Parameter(name=["--continue", "-c"], negative="", help="Continue the latest conversation of the log.")
    ] = False
    conversation: Annotated[str | None, Parameter(help="Continue the conversation with this id.")] = None
    save: Annotated[
        str | None,
        Parameter(help="Save prompt, --system, --model, --fragment and --schema as a template; ask nothing."),
    ] = None


@dataclass
class _Question:
    """A question put together from words, template and options; ``model`` None: none is named."""

    prompt: str
    system: str | None
    model: str | None
    schema: str | None
    material: Material
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def ask(
    *question: Annotated[str, Parameter(help="The question; its words need no quotes.")],
    model: Annotated[
        str | None, Parameter(help=f"Model to ask. [default: the conversation's, {DEFAULT_MODEL} for a new one]")
    ] = None,
    system: Annotated[str | None, Parameter(help="System message.")] = None,
    temperature: Annotated[float | None, Parameter(help="0 to 2; the API's default if not given.")] = None,
    max_tokens: Annotated[int | None, Parameter(help="Maximum length of the answer, in tokens.")] = None,
    material: Material | None = None,
    offered: OfferedTools | None = None,
    form: AnswerForm | None = None,
    kept: Kept | None = None,
    server: Server | None = None,
) -> int:
    """Ask one question; the answer streams to standard output. Piped input is put below the question.

    For example ``cat notes.txt | antiphon ask "Summarise this."``

    Exit status 3 if the answer was cut at the token limit.
    """
    material, offered, form, kept = (
        material or Material(),
        offered or OfferedTools(),
        form or AnswerForm(),
        kept or Kept(),
    )
    words = " ".join(question)
    given = {"temperature": temperature, "max_completion_tokens": max_tokens}
    if kept.save is not None:
        _require_nothing_else(kept, material, offered, form, given)
        template = Template(words, system or "", model or "", material.fragment, form.schema or "")
        print(write_template(kept.save, template))
        return 0
    asked = _question(words, model, system, material, form.schema)
    if not asked.prompt and not asked.material.attachment and not asked.material.fragment:
        raise AntiphonError("no question given", hint='antiphon ask "Why is the sky blue?"')
    asked.options = {name: value for name, value in given.items() if value is not None}
    with ExitStack() as stack:
        client = stack.enter_context((server or Server()).client())
        # Said below, in the words of the command line.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", TruncatedAnswerWarning)
        tools = stack.enter_context(offered.opened())
        conversation, saved = _continued(kept)
        chat = _chat(asked, tools, offered, saved, client)
        reply = _answered(chat, asked, form)
    _log(conversation, asked.prompt, reply, chat)
    return _finish(reply, form)


def _question(words: str, model: str | None, system: str | None, material: Material, schema: str | None) -> _Question:
    # Standard input is read by one: a fragment or an attachment named "-", or the question.
    is_taken = "-" in (*material.fragment, *material.attachment)
    below = "" if is_taken else piped() or ""
    prompt = "\n\n".join(part for part in (words, below) if part)
    if material.template is None:
        if material.param:
            raise AntiphonError("--param without a template", hint="name one: --template NAME")
        return _Question(prompt, system, model, schema, material)
    template = read_template(material.template)
    prompt = template.filled(prompt, material.param)
    material = Material((*template.fragments, *material.fragment), material.attachment)
    return _Question(
        prompt,
        system or template.system or None,
        model or template.model or None,
        schema or template.schema or None,
        material,
    )


def _continued(kept: Kept) -> tuple[str | None, Mapping[str, Any] | None]:
    if not kept.continue_ and kept.conversation is None:
        return None, None
    with log_file.Log.opened() as log:
        return log.conversation(kept.conversation)


def _chat(
    asked: _Question, tools: Sequence[Tool], offered: OfferedTools, saved: Mapping[str, Any] | None, client: Any
) -> Chat:
    options: ChatOptions = {**asked.options}  # pyright: ignore[reportAssignmentType]
    if tools:
        options["tools"] = tools
        options["approve"] = offered.approve(tools)
    if asked.model is not None:
        options["model"] = asked.model
    if saved is None:
        return Chat(asked.system, client=client, **options)
    log_file.require_no_system(asked.system)
    return Chat.from_json(saved, client=client, **options)


def _require_nothing_else(
    kept: Kept, material: Material, offered: OfferedTools, form: AnswerForm, given: Mapping[str, Any]
) -> None:
    """Raise AntiphonError for an option that a template does not keep."""
    unkept = {
        "--temperature": given["temperature"],
        "--max-tokens": given["max_completion_tokens"],
        "--attachment": material.attachment,
        "--template": material.template,
        "--param": material.param,
        "--tool": offered.tool,
        "--mcp": offered.mcp,
        "--continue": kept.continue_,
        "--conversation": kept.conversation,
        "--json": form.json,
        "--stats": form.stats,
    }
    if named := [name for name, value in unkept.items() if value is not None and value is not False and value != ()]:
        raise AntiphonError(f"a template does not keep {', '.join(named)}", hint="give it when you ask")


def _answered(chat: Chat, asked: _Question, form: AnswerForm) -> Reply[Any]:
    content = content_of(asked.prompt, asked.material)
    if asked.schema is not None:
        return _shaped(chat, content, asked.schema, is_printed=not form.json)
    with Printer(markdown=False if form.plain or form.json else None) as printer:
        stream = chat.stream(content)
        for event in stream.events():
            if not (form.json and isinstance(event, TextDelta)):
                printer.show(event)
        if not form.json:
            printer.end()
    return stream.reply


def _shaped(chat: Chat, content: Any, schema: str, *, is_printed: bool) -> Reply[Any]:
    shape = shape_of(schema)
    if isinstance(shape, dict):
        checked = JsonShape(shape, "the schema")
        response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": shape}}
        reply = chat.send(content, response_format=response_format)
        _require_shape(reply, checked)
        if is_printed:
            print(reply.text)
        return reply
    parsed = chat.parse(shape, content)
    if is_printed:
        value: BaseModel = parsed.parsed
        print_json(value.model_dump(by_alias=True))
    return parsed


def _require_shape(reply: Reply[Any], checked: JsonShape) -> None:
    """Raise AntiphonError for an answer that is not of the schema: some servers take a schema and do not keep to it."""
    try:
        checked.read(reply.text)
    except ValueError as error:
        if reply.is_truncated:
            raise AntiphonError("the answer was cut at the token limit", hint="raise --max-tokens") from error
        raise AntiphonError(
            f"the answer {reply.text[:60]!r} does not keep to the schema: {error}",
            hint="use a server that enforces json_schema, or a model that supports structured output",
        ) from error


def _log(conversation: str | None, prompt: str, reply: Reply[Any], chat: Chat) -> None:
    if log_file.is_on():
        with log_file.Log.opened() as log:
            log.add(conversation, prompt, reply, chat.to_json())


def _finish(reply: Reply[Any], form: AnswerForm) -> int:
    if form.json:
        print_json(
            {
                "text": reply.text,
                "model": reply.model,
                "finish_reason": reply.finish_reason,
                "usage": reply.usage,
                "cost": reply.cost,
                "timing": reply.timing,
                "request_id": reply.request_id,
            }
        )
    if form.stats and reply.usage is not None:
        used = f"{reply.usage.prompt_tokens} + {reply.usage.completion_tokens} tokens"
        speed = f"{reply.tokens_per_s:.1f} tokens/s" if reply.tokens_per_s else "speed unknown"
        print(f"{reply.model}: {used}, {dollars(reply.cost)}, {speed}", file=sys.stderr)
    if reply.is_truncated:
        print("antiphon: the answer was cut at the token limit - raise --max-tokens", file=sys.stderr)
        return 3
    return 0
