"""A chat model in this machine: a request becomes a prompt, the engine's tokens become events."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Literal, ParamSpec, TypeVar

from antiphon.backends.local.completion import complete
from antiphon.backends.local.errors import engine_errors
from antiphon.backends.local.openai_ids import with_own_ids
from antiphon.backends.local.sampling import engine_sampling
from antiphon.backends.local.tokens import engine_prompt, token_logprobs
from antiphon.backends.local.usage import UsageMeter
from antiphon.engine import Engine
from antiphon.engine.ipc.messages import ClosingTexts, Delta, Finished, Generate, Prefilled
from antiphon.prompting import ChatPrompter, Plan, offered_tools
from antiphon.protocol import events
from antiphon.protocol.chat import ChatRequest, Tool
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.events import Event
from antiphon.protocol.model_limits import check_logit_bias, check_max_tokens

P = ParamSpec("P")
T = TypeVar("T")

Embed = Callable[[Sequence[str]], Awaitable[Sequence[Sequence[float]] | None]]
"""Returns a unit vector per text, or None while there is no model for that."""


class LocalChat:
    """One chat model. ``name`` is its catalogue id, told in every answer.

    ``embed`` gives a vector per text; a model that was not trained on tools needs it to choose among them.
    ``default_max_tokens`` limits answers whose request names no limit, None: the context alone does.
    """

    kind: Literal["chat"] = "chat"

    def __init__(
        self, name: str, engine: Engine, *, embed: Embed | None = None, default_max_tokens: int | None = None
    ) -> None:
        self.name = name
        self._default_max_tokens = default_max_tokens
        self.engine = engine
        self._embed = embed
        self._prompter: ChatPrompter | None = None

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together; None before the model is loaded."""
        return self.engine.info.context_length if self._prompter is not None else None

    @property
    def is_started(self) -> bool:
        """Whether the model was loaded once; its engine may be restarting since."""
        return self._prompter is not None

    async def start(self) -> None:
        """Start the engine and derive from its template how to prompt it."""
        await self.engine.start()
        info = self.engine.info
        self._prompter = ChatPrompter(
            template=info.chat_template,
            templates=info.templates,
            bos_token=info.bos_token,
            eos_token=info.eos_token,
            adds_bos=info.adds_bos,
            control_tokens=info.control_tokens,
            end_tokens=info.end_tokens,
            token_ids=info.mark_ids,
        )

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Answer; see ``Backend.chat``."""
        check_max_tokens(request.raw, self.engine.info.context_length)
        with engine_errors():
            request = await with_own_ids(request, self.name, self.engine)
        check_logit_bias(request.sampling.logit_bias, self.engine.info.vocabulary_size)
        plan = await self._plan(request)
        parsers = [plan.parser(index) for index in range(request.n)]
        usage = UsageMeter(request.n)
        with engine_errors(max_tokens=request.max_tokens):
            async with aclosing(self.engine.generate(_job(request, plan, self._default_max_tokens))) as answers:
                async for answer in answers:
                    match answer:
                        case Prefilled():
                            yield usage.started(self.name, answer, self.engine.info)
                        case Delta():
                            heard = parsers[answer.index].feed(answer.text, token_logprobs(answer.tokens))
                            usage.count(answer.index, answer.num_tokens, heard)
                            for event in heard:
                                yield event
                        case Finished():
                            usage.count(answer.index, answer.num_tokens, ())
                            for event in parsers[answer.index].finish(answer.reason):
                                yield event
        yield events.Completed(usage.meter.usage)

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        """Continue prompts; see ``Backend.complete``."""
        return complete(self.name, self.engine, request)

    async def count_tokens(self, request: ChatRequest) -> int:
        """Return the prompt's exact length in tokens."""
        tools = await self._select_tools(request)
        prompt = await self._off_loop(request, self._started.prompt, request, tools)
        with engine_errors():
            counted = await self.engine.tokenize((engine_prompt(prompt),))
        return len(counted.ids[0])

    @property
    def _started(self) -> ChatPrompter:
        if self._prompter is None:
            raise RuntimeError(f"the model {self.name!r} has not been started")
        return self._prompter

    async def _plan(self, request: ChatRequest) -> Plan:
        tools = await self._select_tools(request)
        return await self._off_loop(request, self._started.plan, request, tools)

    async def _select_tools(self, request: ChatRequest) -> tuple[Tool, ...]:
        """Check the request and return the tools that its answer may call. Raises ``ApiError`` 400."""
        prompter = self._started
        question = await self._off_loop(request, prompter.question, request)
        if question is None:
            return offered_tools(request)
        vectors = await self._embed(question.texts) if self._embed is not None and question.texts else None
        return prompter.selector.choose(question, vectors)

    async def _off_loop(self, request: ChatRequest, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the prompter, in a thread where grammars are compiled, which takes long."""
        if not request.tools and request.response_format is None:
            return function(*args, **kwargs)
        return await asyncio.to_thread(function, *args, **kwargs)


def _job(request: ChatRequest, plan: Plan, default_max_tokens: int | None) -> Generate:
    return Generate(
        id=0,
        prompt=engine_prompt(plan.prompt),
        n=request.n,
        max_tokens=request.max_tokens,
        default_max_tokens=default_max_tokens,
        sampling=engine_sampling(request.sampling),
        stop=(*request.stop, *plan.stop),
        logprobs=request.top_logprobs if request.logprobs else None,
        grammar=plan.grammar,
        closing_texts=ClosingTexts(plan.closing_texts, plan.max_word) if plan.closing_texts else None,
        special=plan.special,
    )
