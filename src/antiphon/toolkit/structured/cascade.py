"""A small model first, a larger one where its answer will not do."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Generic, TypeVar, Unpack

from openai import OpenAI

from antiphon.toolkit._sync import portal
from antiphon.toolkit.chat.chat import AsyncChat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.reply import Reply
from antiphon.toolkit.clients import Client, Endpoint, connect, portal_client
from antiphon.toolkit.costs.prices import PriceTable
from antiphon.toolkit.errors import OutputError
from antiphon.toolkit.structured.extract import INSTRUCTIONS, defaults
from antiphon.toolkit.usage import NO_USAGE, Usage

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
Acceptance = bool | str
# True accepts; False, or a reason, sends the question to the next model. May be async.
Accept = Callable[[T], Acceptance | Awaitable[Acceptance]]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A model whose answer was not taken: why, its text, and what it had taken."""

    model: str
    why: str
    text: str
    usage: Usage | None
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Cascade(Generic[T]):
    """The reply that was taken, and what came before it.

    ``cost`` is that of all models asked. ``saved`` is an estimate: what the last model would have cost for the tokens
    of the reply, less ``cost``; negative if the cascade was dearer. Dollars; None where a price is unknown.
    """

    reply: Reply[T]
    rejected: tuple[Rejected, ...]
    cost: Decimal | None
    saved: Decimal | None


async def acascade(
    output: TypeForm[T],
    text: str,
    *,
    models: Sequence[str],
    accept: Accept[T] | None = None,
    instructions: str = INSTRUCTIONS,
    client: Client | None = None,
    **options: Unpack[ChatOptions],
) -> Cascade[T]:
    """Do what ``cascade`` does, from asynchronous code."""
    if not models or "model" in options:
        raise ValueError("a cascade needs models=[small, ..., large], and no model=")
    rejected: list[Rejected] = []
    async with connect(client) as connection:
        for model in models:
            try:
                reply, why = await _ask(
                    output,
                    text,
                    model=model,
                    accept=accept,
                    instructions=instructions,
                    client=connection.client,
                    options=options,
                )
            except OutputError as error:
                cost = _cost(error.usage, model, connection.endpoint, options)
                rejected.append(Rejected(model, error.message, error.text, error.usage, cost))
                continue
            if why is None:
                return _taken(reply, rejected, models[-1], connection.endpoint, options)
            rejected.append(Rejected(model, why, reply.text, reply.usage, reply.cost))
    reasons = "; ".join(f"{one.model}: {one.why}" for one in rejected)
    usage = sum((one.usage for one in rejected if one.usage is not None), NO_USAGE)
    raise OutputError(
        f"No model gave an answer that will do ({reasons})",
        hint="add a larger model, or loosen accept=",
        text=rejected[-1].text,
        usage=usage,
    )


def cascade(
    output: TypeForm[T],
    text: str,
    *,
    models: Sequence[str],
    accept: Accept[T] | None = None,
    instructions: str = INSTRUCTIONS,
    client: OpenAI | None = None,
    **options: Unpack[ChatOptions],
) -> Cascade[T]:
    """Ask ``models`` in turn, smallest first, for a value of type ``output``, and take the first that will do.

    An answer will not do if it fails the type's validators, is cut or refused, or ``accept(value)`` returns False or a
    reason. Each model is asked once, unless ``attempts`` is given. Raises OutputError if no answer will do.
    """
    sync_client = portal_client(client)
    return portal.call(
        acascade(output, text, models=models, accept=accept, instructions=instructions, client=sync_client, **options)
    )


async def _ask(
    output: TypeForm[T],
    text: str,
    *,
    model: str,
    accept: Accept[T] | None,
    instructions: str,
    client: Client,
    options: ChatOptions,
) -> tuple[Reply[T], str | None]:
    asked: ChatOptions = {"attempts": 1, **defaults(options), "model": model}
    reply = await AsyncChat(instructions, client=client, **asked).parse(output, text)
    if accept is None:
        return reply, None
    verdict = accept(reply.parsed)
    verdict = await verdict if inspect.isawaitable(verdict) else verdict
    return reply, None if verdict is True else str(verdict or "not accepted")


def _taken(
    reply: Reply[T], rejected: Sequence[Rejected], last: str, endpoint: Endpoint, options: ChatOptions
) -> Cascade[T]:
    costs = [reply.cost, *(one.cost for one in rejected)]
    known = [cost for cost in costs if cost is not None]
    cost = sum(known, Decimal(0)) if len(known) == len(costs) else None
    alone = _cost(reply.usage, last, endpoint, options)
    saved = None if cost is None or alone is None else alone - cost
    report = options.get("report")
    if report is not None and saved is not None:
        report.add_cascade_saving(saved)
    return Cascade(reply, tuple(rejected), cost, saved)


def _cost(usage: Usage | None, model: str, endpoint: Endpoint, options: ChatOptions) -> Decimal | None:
    prices = options.get("prices") or PriceTable()
    return None if usage is None else prices.cost(usage, model, endpoint)
