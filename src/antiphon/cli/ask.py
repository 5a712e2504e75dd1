"""``antiphon ask``: one question, one answer."""

import sys
import warnings
from typing import Annotated

from cyclopts import Parameter

from antiphon.cli.connection import Server, dollars, piped
from antiphon.cli.output import print_json
from antiphon.errors import AntiphonError
from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.reply import Reply, TruncatedAnswerWarning


def ask(
    *question: Annotated[str, Parameter(help="The question; its words need no quotes.")],
    model: Annotated[str, Parameter(help="Model to ask.")] = "gpt-4o-mini",
    system: Annotated[str | None, Parameter(help="System message.")] = None,
    temperature: Annotated[float | None, Parameter(help="0 to 2; the API's default if not given.")] = None,
    max_tokens: Annotated[int | None, Parameter(help="Maximum length of the answer, in tokens.")] = None,
    json: Annotated[bool, Parameter(negative="", help="Print text, usage, cost and times as one JSON object.")] = False,
    stats: Annotated[bool, Parameter(negative="", help="Print usage, cost and times to standard error.")] = False,
    server: Server | None = None,
) -> int:
    """Ask one question; the answer streams to standard output. Piped input is put below the question.

    For example ``cat notes.txt | antiphon ask "Summarise this."``

    Exit status 3 if the answer was cut at the token limit.
    """
    prompt = "\n\n".join(part for part in (" ".join(question), piped()) if part)
    if not prompt:
        raise AntiphonError("no question given", hint='antiphon ask "Why is the sky blue?"')
    options: ChatOptions = {"model": model}
    if temperature is not None:
        options["temperature"] = temperature
    if max_tokens is not None:
        options["max_completion_tokens"] = max_tokens
    with (server or Server()).client() as client, warnings.catch_warnings():
        # Said below, in the words of the command line.
        warnings.simplefilter("ignore", TruncatedAnswerWarning)
        chat = Chat(system, client=client, **options)
        stream = chat.stream(prompt)
        for piece in stream:
            if not json:
                print(piece, end="", flush=True)
        reply = stream.reply
    return _finish(reply, as_json=json, stats=stats)


def _finish(reply: Reply[None], *, as_json: bool, stats: bool) -> int:
    if as_json:
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
    else:
        print()
    if stats and reply.usage is not None:
        used = f"{reply.usage.prompt_tokens} + {reply.usage.completion_tokens} tokens"
        speed = f"{reply.tokens_per_s:.1f} tokens/s" if reply.tokens_per_s else "speed unknown"
        print(f"{reply.model}: {used}, {dollars(reply.cost)}, {speed}", file=sys.stderr)
    if reply.is_truncated:
        print("antiphon: the answer was cut at the token limit - raise --max-tokens", file=sys.stderr)
        return 3
    return 0
