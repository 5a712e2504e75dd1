"""Running requests: what each does with the logits of its sequences, and which answers that gives."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

from antiphon.engine.ipc.messages import (
    Answer,
    Delta,
    Finished,
    Generate,
    Prefilled,
    PrefillEnded,
    Score,
    Scored,
    Token,
)
from antiphon.engine.model.logits import Logits, log_probabilities
from antiphon.engine.model.vocabulary import Vocabulary
from antiphon.engine.sampling.constraint import Constraint
from antiphon.engine.sampling.detokeniser import Detokeniser
from antiphon.engine.sampling.repetition import Repetition, RepetitionGuard
from antiphon.engine.sampling.sampler import Sampler, describe
from antiphon.engine.sampling.speculation import NgramPool
from antiphon.engine.scheduling.block import BLOCK
from antiphon.engine.scheduling.prefix_cache import MIN_TAIL, num_cacheable
from antiphon.engine.scheduling.sequence import Sequence, Slice

RequestKey = tuple[int, int]
"""Connection and request id."""


class Task(ABC):
    """A request with sequences in the scheduler. ``arrived`` and ``begun``, its first step, are on the monotonic clock.

    ``yields``: its steps are aborted for a request that does not.
    """

    yields = False

    def __init__(self, key: RequestKey, arrived: float, deadline_s: float | None = None) -> None:
        self.key = key
        self.arrived = arrived
        self.begun: float | None = None
        self.deadline = None if deadline_s is None else self.arrived + deadline_s
        self.sequences: list[Sequence] = []

    @abstractmethod
    def take(self, piece: Slice, rows: Logits) -> Iterator[Answer]:
        """Use the logits of the last positions of ``piece``: extend its sequence, or drop it from ``sequences``."""


class ChoiceDecoder:
    """Decodes one choice: draws its tokens, turns them into text, and decides when it ends."""

    def __init__(
        self,
        request: Generate,
        index: int,
        prompt: list[int],
        max_tokens: int,
        vocabulary: Vocabulary,
        *,
        constraint: Constraint | None,
        ngram_pool: NgramPool | None,
    ) -> None:
        self.sequence = Sequence(
            list(prompt),
            len(prompt) + max_tokens,
            0 if request.echo_logprobs else None,
            is_batch=request.priority == "batch",
            has_siblings=request.n > 1,
        )
        self._request = request
        self._index = index
        self._max_tokens = max_tokens
        self._vocabulary = vocabulary
        self._data = vocabulary.data if request.special else vocabulary.plain
        self._constraint = constraint
        self._repetition_guard = None
        if constraint is not None and request.closing_texts is not None:
            self._repetition_guard = RepetitionGuard(request.closing_texts, vocabulary)
        self._repetition = Repetition() if constraint is None and request.ends_repetition else None
        self._sampler = Sampler(request.sampling, index)
        self._detokeniser = Detokeniser(request.stop)
        self._ends = vocabulary.end_tokens | frozenset(request.stop_token_ids)
        self._num_tokens = 0
        self._is_finished = False
        self._pending: list[Token] = []
        self._lookup = None if ngram_pool is None else ngram_pool.lookup(self.sequence.tokens, is_alone=request.n == 1)
        self._looked_up: list[int] = []
        self._look_up()

    def advance(self, draft: tuple[int, ...], rows: Logits) -> Iterator[Delta | Finished]:
        """Draw the next token from the first of ``rows``, and one more for each draft token that was drawn too."""
        tokens = self.sequence.tokens
        first = len(tokens) - 1
        num_accepted = 0
        for position, row in enumerate(rows, first):
            num_accepted = position - first
            if num_accepted and (position >= len(tokens) or tokens[position] != draft[num_accepted - 1]):
                num_accepted -= 1
                break
            if position == len(tokens) - 1:
                yield from self._draw(row)
                if self._is_finished:
                    return
        if self._lookup is not None and list(draft) == self._looked_up[: len(draft)]:
            self._lookup.learn(len(draft), num_accepted)
        self._look_up()

    def _look_up(self) -> None:
        """Replace the draft by what followed the last tokens earlier; a draft model may replace it again."""
        self._looked_up, self.sequence.draft_acceptance = ([], 0.0) if self._lookup is None else self._lookup.propose()
        self.sequence.draft = self._looked_up

    def _draw(self, logits: Logits) -> Iterator[Delta | Finished]:
        if self._max_tokens == 0:
            yield from self._end("length")
            return
        mask = None if self._constraint is None else self._constraint.mask()
        if mask is not None and self._repetition_guard is not None:
            mask = self._repetition_guard.narrow(mask)
        tokens = self._with_forced(self._sampler.draw(logits, mask))
        is_complete = self._constraint is not None and self._constraint.is_complete
        for num_left, token in zip(range(len(tokens) - 1, -1, -1), tokens, strict=True):
            if token in self._ends:
                yield from self._end("stop")
                return
            self._sampler.accept(token)
            if self._repetition_guard is not None:
                self._repetition_guard.accept(token)
            self.sequence.tokens.append(token)
            if self._repetition is not None:
                self._repetition.accept(token)
            yield from self._say(token, logits, is_last=is_complete and not num_left)
            if self._is_finished:
                return

    def _with_forced(self, token: int) -> list[int]:
        """Return ``token`` and the tokens that the grammar then forces; they are computed like a prompt.

        Log-probabilities need each token's own logits, so with them forced tokens are drawn one by one.
        """
        if self._constraint is None or token in self._ends:
            return [token]
        self._constraint.accept(token)
        return [token] if self._request.logprobs is not None else [token, *self._constraint.take_forced()]

    def _say(self, token: int, logits: Logits, *, is_last: bool) -> Iterator[Delta | Finished]:
        """Yield the text of ``token``. If it ``is_last``, the grammar is complete."""
        self._num_tokens += 1
        if self._request.logprobs is not None:
            self._pending.append(describe(logits, token, self._request.logprobs, self._vocabulary))
        text = self._detokeniser.push(self._data[token])
        if self._detokeniser.stopped is not None or is_last:
            yield from self._end("stop", text)
        elif self._num_tokens == self._max_tokens or (self._repetition is not None and self._repetition.is_endless):
            yield from self._end("length", text)
        elif text:
            yield self._delta(text, () if self._detokeniser.is_holding else self._flush())

    def _end(self, reason: Literal["stop", "length"], text: str = "") -> Iterator[Delta | Finished]:
        text += self._detokeniser.finish()
        tokens = self._flush()
        if text or tokens:
            yield self._delta(text, tokens)
        self._is_finished = True
        stopped = self._detokeniser.stopped
        yield Finished(self._request.id, self._index, "stop" if stopped else reason, self._num_tokens, stopped)

    def _flush(self) -> tuple[Token, ...]:
        tokens, self._pending = tuple(self._pending), []
        return tokens

    def _delta(self, text: str, tokens: tuple[Token, ...]) -> Delta:
        return Delta(self._request.id, self._index, text, self._num_tokens, tokens)


class Generation(Task):
    """A ``Generate`` request: ``n`` choices after one prompt."""

    def __init__(
        self,
        key: RequestKey,
        request: Generate,
        prompt: list[int],
        max_tokens: int,
        vocabulary: Vocabulary,
        *,
        constraint: Constraint | None,
        ngram_pool: NgramPool | None = None,
        arrived: float,
    ) -> None:
        super().__init__(key, arrived, request.deadline_s)
        self.yields = request.priority == "batch"
        self._request = request
        self._vocabulary = vocabulary
        choices = [
            ChoiceDecoder(
                request,
                index,
                prompt,
                max_tokens,
                vocabulary,
                constraint=constraint and constraint.copy(),
                ngram_pool=ngram_pool,
            )
            for index in range(request.n)
        ]
        self._choices = {id(choice.sequence): choice for choice in choices}
        self.sequences = [choice.sequence for choice in choices]
        for sequence in self.sequences[1:]:
            sequence.leader = self.sequences[0]
        self._echo = [Token(prompt[0], vocabulary.data[prompt[0]])] if request.echo_logprobs else []
        self._is_started = False

    def take(self, piece: Slice, rows: Logits) -> Iterator[Answer]:
        """Collect the prompt's log-probabilities if asked for, then draw from the last rows."""
        sequence, num_drawn = piece.sequence, 1 + len(piece.draft)
        if sequence.outputs_from < sequence.num_prompt:
            self._collect(sequence, piece.end - len(rows) + len(piece.draft), rows)
            sequence.outputs_from = min(piece.end, sequence.num_prompt)
        if piece.end < sequence.num_prompt:
            return
        if not self._is_started:
            self._is_started = True
            now = time.monotonic()
            begun = now if self.begun is None else self.begun
            yield Prefilled(
                self._request.id,
                sequence.num_prompt,
                sequence.num_shared,
                tuple(self._echo),
                queue_s=max(0.0, begun - self.arrived),
                prefill_s=now - begun,
            )
        for answer in self._choices[id(sequence)].advance(piece.draft, rows[-num_drawn:]):
            yield answer
            if isinstance(answer, Finished):
                self.sequences.remove(sequence)

    def _collect(self, sequence: Sequence, start: int, rows: Logits) -> None:
        """Keep the log-probabilities of positions that are new: any choice may reach a position of the prompt first."""
        num_top = self._request.logprobs or 0
        for position, row in enumerate(rows, start + 1):
            if position == len(self._echo) < sequence.num_prompt:
                self._echo.append(describe(row, sequence.tokens[position], num_top, self._vocabulary))


class Scoring(Task):
    """A ``Score`` request: one sequence per continuation, computed like a prompt."""

    def __init__(
        self, key: RequestKey, request: Score, prompt: list[int], continuations: list[list[int]], arrived: float
    ) -> None:
        super().__init__(key, arrived)
        self._id = request.id
        self._sums = [0.0] * len(continuations)
        self._lengths = tuple(len(continuation) for continuation in continuations)
        self._order: dict[int, int] = {}
        for index, continuation in enumerate(continuations):
            tokens = prompt + continuation
            sequence = Sequence(tokens, len(tokens), len(prompt) - 1)
            self._order[id(sequence)] = index
            self.sequences.append(sequence)

    def take(self, piece: Slice, rows: Logits) -> Iterator[Answer]:
        """Add the log-probabilities of the tokens that follow each row's position."""
        sequence = piece.sequence
        index = self._order[id(sequence)]
        for position, row in enumerate(rows, piece.end - len(rows) + 1):
            if position < len(sequence.tokens):
                self._sums[index] += float(log_probabilities(row)[sequence.tokens[position]])
        sequence.outputs_from = piece.end
        if piece.end == len(sequence.tokens):
            self.sequences.remove(sequence)
        if not self.sequences:
            yield Scored(self._id, tuple(self._sums), self._lengths)


class IdlePrefill(Task):
    """A ``Prefill`` request: a prompt of whole blocks, computed for the prefix cache alone while nothing else runs."""

    yields = True

    def __init__(self, key: RequestKey, prompt: list[int], arrived: float) -> None:
        super().__init__(key, arrived)
        self._num_tokens = num_cacheable(len(prompt))
        tokens = prompt[: self._num_tokens + MIN_TAIL]
        self.sequences = [Sequence(tokens, len(tokens))]

    def take(self, piece: Slice, rows: Logits) -> Iterator[Answer]:  # noqa: ARG002 - only that they came matters
        """End: the first logits are those of the last token."""
        self.sequences.clear()
        yield PrefillEnded(self.key[1], self._num_tokens)

    def interrupted(self) -> PrefillEnded:
        """Return the answer to a request that ends early."""
        num_computed = sum(sequence.num_computed for sequence in self.sequences)
        return PrefillEnded(self.key[1], num_computed // BLOCK * BLOCK)
