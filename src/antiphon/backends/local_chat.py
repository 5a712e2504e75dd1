"""A chat model in this machine: a request becomes a prompt, the engine's tokens become events."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from antiphon.backends.local_errors import engine_errors
from antiphon.backends.local_tokens import engine_prompt, token_logprobs
from antiphon.engine import Engine
from antiphon.engine.messages import Delta, Finished, Generate, Sampling, Started
from antiphon.prompting import ChatPrompter, Plan
from antiphon.protocol import chat as wire
from antiphon.protocol import events
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.events import Event, Meter, ReasoningDelta


class LocalChat:
    """One chat model. ``name`` is its catalogue id, told in every answer."""

    kind: Literal["chat"] = "chat"

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.engine = engine
        self._prompter: ChatPrompter | None = None

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together; None before the model is loaded."""
        return self.engine.info.context_length if self._prompter is not None else None

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
        )

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Answer; see ``Backend.chat``."""
        plan = self._plan(request)
        readers = [plan.reader(index) for index in range(request.n)]
        tally = Tally(request.n)
        with engine_errors():
            async with aclosing(self.engine.generate(_job(request, plan))) as answers:
                async for answer in answers:
                    match answer:
                        case Started():
                            yield tally.started(self.name, answer)
                        case Delta():
                            heard = readers[answer.index].feed(answer.text, token_logprobs(answer.tokens))
                            tally.count(answer.index, answer.num_tokens, heard)
                            for event in heard:
                                yield event
                        case Finished():
                            tally.count(answer.index, answer.num_tokens, ())
                            for event in readers[answer.index].finish(answer.reason):
                                yield event
        yield events.Completed(tally.meter.usage())

    async def count_tokens(self, request: ChatRequest) -> int:
        """Return the prompt's exact length in tokens."""
        with engine_errors():
            counted = await self.engine.tokenize((engine_prompt(self._plan(request).prompt),))
        return len(counted.ids[0])

    def _plan(self, request: ChatRequest) -> Plan:
        if self._prompter is None:
            raise RuntimeError(f"the model {self.name!r} has not been started")
        return self._prompter.plan(request)


class Tally:
    """Keeps the meter of one request current while its choices grow."""

    def __init__(self, num_choices: int) -> None:
        self.meter = Meter()
        self._counted = [0] * num_choices
        self._began = time.perf_counter()

    def started(self, model: str, answer: Started) -> events.Started:
        """Note the prompt's tokens and return the first event of the request."""
        self.meter.prompt_tokens = answer.prompt_tokens
        self.meter.cached_tokens = answer.cached_tokens
        return events.Started(model, answer.prompt_tokens, answer.cached_tokens, meter=self.meter)

    def count(self, index: int, num_tokens: int, heard: "tuple[Event, ...] | list[Event]") -> None:
        """Note that choice ``index`` has ``num_tokens`` tokens now; those that made ``heard`` may be reasoning."""
        new = num_tokens - self._counted[index]
        self._counted[index] = num_tokens
        self.meter.completion_tokens += new
        self.meter.compute_s = time.perf_counter() - self._began
        if any(isinstance(event, ReasoningDelta) for event in heard):
            self.meter.reasoning_tokens += new


def engine_sampling(sampling: wire.Sampling) -> Sampling:
    """Return the wire's sampling parameters in the engine's terms."""
    return Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=sampling.logit_bias,
        seed=sampling.seed,
    )


def _job(request: ChatRequest, plan: Plan) -> Generate:
    return Generate(
        id=0,
        prompt=engine_prompt(plan.prompt),
        n=request.n,
        max_tokens=request.max_tokens,
        sampling=engine_sampling(request.sampling),
        stop=(*request.stop, *plan.stop),
        logprobs=request.top_logprobs if request.logprobs else None,
        grammar=plan.grammar,
        special=plan.special,
    )
