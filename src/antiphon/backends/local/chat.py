"""A chat model in this machine: a request becomes a prompt, the engine's tokens become events."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

import msgspec
import structlog

from antiphon.backends.local.completion import complete
from antiphon.backends.local.errors import engine_errors
from antiphon.backends.local.next_turn import AnswerText, NextTurns
from antiphon.backends.local.openai_ids import with_own_ids
from antiphon.backends.local.planning import Embed, Planner
from antiphon.backends.local.sampling import engine_sampling
from antiphon.backends.local.tokens import asked_for, engine_prompt, token_logprobs
from antiphon.backends.local.usage import UsageMeter
from antiphon.backends.trace import TOP_LOGPROBS, contents
from antiphon.engine import Engine
from antiphon.engine.ipc.messages import ClosingTexts, Delta, Finished, Generate, Prefilled
from antiphon.prompting import ChatPrompter, Plan, PromptError
from antiphon.prompting.grammars import trial_pool
from antiphon.protocol import events
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Event
from antiphon.protocol.model_limits import check_logit_bias, check_max_tokens

log: Any = structlog.get_logger("antiphon")


class LocalChat:
    """One chat model. ``name`` is its catalogue id, which every answer names.

    ``embed`` gives a vector per text; a model that was not trained on tools needs it to choose among them.
    ``default_max_tokens`` limits answers whose request names no limit, None: the context alone does.
    ``chat_template`` is used in place of the templates in the model's file.
    """

    kind: Literal["chat"] = "chat"

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        embed: Embed | None = None,
        default_max_tokens: int | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.name = name
        self._default_max_tokens = default_max_tokens
        self.engine = engine
        self._embed = embed
        self._chat_template = chat_template
        self._planner: Planner | None = None
        self._next_turns: NextTurns | None = None
        self._template_problem = ""
        self.is_started = False
        """Whether the model was loaded once; its engine may be restarting since."""

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together; None before the model is loaded."""
        return self.engine.info.context_length if self.is_started else None

    async def start(self) -> None:
        """Start the engine and detect from the model's template how to prompt it.

        A model whose template does not work is served for completions only.
        """
        await self.engine.start()
        info = self.engine.info
        own = self._chat_template
        try:
            # Templates are rendered a hundred times, each for seconds if one is hostile.
            prompter = await asyncio.to_thread(
                ChatPrompter,
                template=info.chat_template if own is None else own,
                templates=info.templates if own is None else {},
                bos_token=info.bos_token,
                eos_token=info.eos_token,
                adds_bos=info.adds_bos,
                control_tokens=info.control_tokens,
                end_tokens=info.end_tokens,
                token_ids=info.mark_ids,
            )
        except PromptError as error:
            self._template_problem = error.message
            log.warning("chat template", model=self.name, problem=error.message, hint=error.hint)
        else:
            self._planner = Planner(prompter, info, self._embed)
            if self.engine.settings.prefill_answers:
                self._next_turns = NextTurns(self.engine, self._planner)
            trial_pool.warm_up()
        self.is_started = True

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Answer; see ``Backend.chat``."""
        turns = self._next_turns
        if turns is None or request.n > 1 or request.priority == "batch":
            async with aclosing(self._answer(request)) as answer:
                async for event in answer:
                    yield event
            return
        said = AnswerText()
        with turns.held_off():
            async with aclosing(self._answer(request)) as answer:
                async for event in answer:
                    said.feed(event)
                    yield event
        turns.prepare(request, said.message())

    async def _answer(self, request: ChatRequest) -> AsyncGenerator[Event]:
        check_max_tokens(request.raw, self.engine.info.context_length)
        with engine_errors():
            request = await with_own_ids(request, self.name, self.engine)
        check_logit_bias(request.sampling.logit_bias, self.engine.info.vocabulary_size)
        plan = await self._chat_planner.plan(request)
        captured = contents()
        if captured is not None:
            captured.set_prompt(tuple((piece.text, piece.special) for piece in plan.prompt), plan.grammar)
        parsers = [plan.parser(index) for index in range(request.n)]
        usage = UsageMeter(request.n)
        job = _job(request, plan, self._default_max_tokens)
        if captured is not None:
            job = msgspec.structs.replace(job, logprobs=max(job.logprobs or 0, TOP_LOGPROBS))
        with engine_errors(max_tokens=request.max_tokens):
            async with aclosing(self.engine.generate(job)) as answers:
                async for answer in answers:
                    match answer:
                        case Prefilled():
                            yield usage.started(self.name, answer, self.engine.info)
                        case Delta():
                            logprobs = token_logprobs(answer.tokens)
                            if captured is not None:
                                captured.add_tokens(answer.index, logprobs)
                                logprobs = asked_for(logprobs, request)
                            heard = parsers[answer.index].feed(answer.text, logprobs)
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
        prompt = await self._chat_planner.prompt(request)
        with engine_errors():
            (length,) = await self.engine.count((engine_prompt(prompt),))
        return length

    @property
    def _chat_planner(self) -> Planner:
        if self._template_problem:
            raise ApiError(
                400,
                f"The model `{self.name}` takes no messages, since its chat template does not work; use /v1/completions. "
                f"{self._template_problem}",
                param="model",
            )
        if self._planner is None:
            raise RuntimeError(f"the model {self.name!r} has not been started")
        return self._planner


def _job(request: ChatRequest, plan: Plan, default_max_tokens: int | None) -> Generate:
    return Generate(
        id=0,
        prompt=engine_prompt(plan.prompt),
        n=request.n,
        max_tokens=request.max_tokens,
        default_max_tokens=default_max_tokens,
        ends_repetition=request.max_tokens is None and default_max_tokens is not None,
        sampling=engine_sampling(request.sampling),
        stop=(*request.stop, *plan.stop),
        logprobs=request.top_logprobs if request.logprobs else None,
        grammar=plan.grammar,
        closing_texts=ClosingTexts(plan.closing_texts, plan.max_word) if plan.closing_texts else None,
        special=plan.special,
        priority=request.priority,
    )
