"""Drafts by a second, smaller model: what it would say next is what the model is asked to verify.

The draft is the small model's likeliest continuation. As with prompt lookup, the sampler then draws from the model's own
rows, and a draft token counts only if it equals what was drawn: so a text is the same with and without a draft model,
whatever its temperature. For a draft that is not drawn itself, no rule of acceptance accepts more (Leviathan, Kalman,
Matias 2023: fast inference from transformers via speculative decoding, with all of q on one token).
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from antiphon.engine.model.base import ModelContext, NoCells
from antiphon.engine.model.logits import Logits
from antiphon.engine.scheduling.batch_shapes import BatchShapes
from antiphon.engine.scheduling.sequence import Sequence as Text

_BOUNDS: Final = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Where the small model's probabilities are distinguished when counting how often the model agrees."""
_PRIORS: Final = (0.1, 0.3, 0.5, 0.65, 0.8, 0.95)
_PRIOR_WEIGHT: Final = 4.0
_MEMORY: Final = 0.98
"""What remains of the earlier observations after each new one."""

_SHARED: Final = 64
"""Tokens; prefixes are shared between slots in multiples of it."""


class _Agreement:
    """How often the model drew what the small one proposed, by how sure the small one was."""

    def __init__(self) -> None:
        self._accepted = [prior * _PRIOR_WEIGHT for prior in _PRIORS]
        self._drafted = [_PRIOR_WEIGHT] * len(_PRIORS)
        self.mean = 0.6
        """Of the first tokens of drafts."""

    def rate(self, probability: float) -> float:
        at = int(np.searchsorted(_BOUNDS, probability))
        return self._accepted[at] / self._drafted[at]

    def learn(self, probabilities: Sequence[float], num_accepted: int) -> None:
        for position, probability in enumerate(probabilities[: num_accepted + 1]):
            at = int(np.searchsorted(_BOUNDS, probability))
            is_right = position < num_accepted
            self._accepted[at] = self._accepted[at] * _MEMORY + is_right
            self._drafted[at] = self._drafted[at] * _MEMORY + 1
            if not position:
                self.mean = self.mean * _MEMORY + is_right * (1 - _MEMORY)


class _Slot:
    """A slot of the small model: the tokens that it holds, whose text they belong to, and what was proposed last."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens: list[int] = []
        self.text: Text | None = None
        self.num_same = 0
        """Tokens at the beginning that are known to be the text's."""
        self.draft: list[int] = []
        self.probabilities: list[float] = []
        self.confidence = 1.0
        self.proposed_at = 0
        """How long the text was when a draft was proposed."""
        self.last_round = 0

    def follow(self, text: Text) -> int:
        """Note how far the slot's tokens are those of ``text``, and return that: at most all but the last token."""
        wanted, limit = text.tokens, min(len(self.tokens), len(text.tokens) - 1)
        same = min(self.num_same, limit)
        while same < limit and self.tokens[same] == wanted[same]:
            same += 1
        self.num_same = same
        return same


class DraftModel:
    """Proposes drafts for running texts, from the step loop's thread, between two steps.

    Args:
        context: of the small model; its batch and its slots 0 to ``num_slots`` - 1 are used by nothing else.
        num_tokens: of its vocabulary, those that the model knows too, from the first on.
        limit: tokens of the longest text that it can continue.
        max_draft: most tokens of a draft.
        relative_size: of the small model's weights, to the model's.
        shapes: of the model's steps.
        drafts_siblings: whether texts of one request are drafted too: not where rejected drafts change how their sums are made.
    """

    def __init__(
        self,
        context: ModelContext,
        *,
        num_slots: int,
        num_tokens: int,
        limit: int,
        max_draft: int,
        relative_size: float,
        shapes: BatchShapes,
        drafts_siblings: bool,
    ) -> None:
        self.context = context
        self._num_tokens = num_tokens
        self._limit = limit
        self._max_draft = max_draft
        self._relative_size = relative_size
        self._shapes = shapes
        self._drafts_siblings = drafts_siblings
        self._slots = [_Slot(number) for number in range(num_slots)]
        self._agreement = _Agreement()
        self._round = 0

    def propose(self, texts: Sequence[Text]) -> None:
        """Give drafts to those of the running ``texts`` that have no better one.

        Computes at most one batch of what the small model has not read yet: a text whose prompt is long gets drafts later.
        """
        if not texts or not self._is_worth(1, texts, 0):
            return
        self._round += 1
        running = set(texts)
        for slot in self._slots:
            if slot.text is not None and slot.text not in running:
                slot.text = None
        due = [slot for text in texts if self._is_wanted(text) and (slot := self._slot(text)) is not None]
        active = self._read([slot for slot in due if slot.proposed_at != self._length(slot)])
        while active:
            active = self._extend(active, texts)

    def learn(self, text: Text, draft: tuple[int, ...], num_accepted: int) -> bool:
        """Note what became of a draft. Return whether it was proposed here."""
        slot = next((slot for slot in self._slots if slot.text is text), None)
        if not draft or slot is None or tuple(slot.draft[: len(draft)]) != draft:
            return False
        self._agreement.learn(slot.probabilities[: len(draft)], num_accepted)
        return True

    def _is_worth(self, confidence: float, texts: Sequence[Text], num_drafted: int) -> bool:
        """Whether a token that is accepted with this confidence pays for its row, and for its share of a step of the small model."""
        cost = self._relative_size * (1 + self._shapes.fixed_cost / len(texts))
        return self._shapes.is_worth(confidence / (1 + cost), len(texts) + num_drafted)

    @staticmethod
    def _length(slot: _Slot) -> int:
        return 0 if slot.text is None else len(slot.text.tokens)

    def _is_wanted(self, text: Text) -> bool:
        return (
            len(text.tokens) + self._max_draft <= self._limit
            and text.max_length - len(text.tokens) > 1
            and (self._drafts_siblings or not text.has_siblings)
            and text.draft_acceptance < self._agreement.mean
        )

    def _slot(self, text: Text) -> _Slot | None:
        """Return the text's slot; a text without one takes the free slot that holds most of it, or the oldest."""
        free: list[_Slot] = []
        for slot in self._slots:
            if slot.text is text:
                slot.last_round = self._round
                return slot
            if slot.text is None:
                free.append(slot)
        if not free:
            return None
        common = {slot.number: _num_common(slot.tokens, text.tokens) for slot in self._slots}
        slot = max(free, key=lambda slot: (common[slot.number], -slot.last_round))
        slot.text, slot.num_same, slot.proposed_at, slot.draft = text, common[slot.number], 0, []
        slot.last_round = self._round
        donor = max(self._slots, key=lambda other: common[other.number])
        shared = common[donor.number] // _SHARED * _SHARED
        if shared > common[slot.number]:
            self.context.remove(slot.number)
            self.context.copy(donor.number, slot.number, 0, shared)
            slot.tokens, slot.num_same = text.tokens[:shared], shared
        return slot

    def _read(self, slots: list[_Slot]) -> list[tuple[_Slot, Logits]]:
        """Compute what the slots lack, as much as one batch holds, and return the outputs of those that lack nothing then."""
        batch = self.context.batch
        batch.clear()
        lacking: list[tuple[int, _Slot]] = []
        for slot in slots:
            assert slot.text is not None
            lacking.append((len(slot.text.tokens) - slot.follow(slot.text), slot))
        complete: list[_Slot] = []
        for missing, slot in sorted(lacking, key=lambda pair: pair[0]):
            assert slot.text is not None
            count = min(missing, batch.capacity - batch.size)
            if not count:
                break
            self._drop(slot, slot.num_same)
            tokens = slot.text.tokens[slot.num_same : slot.num_same + count]
            batch.add(slot.number, slot.num_same, tokens, int(count == missing), is_prompt=count > 1)
            slot.tokens += tokens
            if count == missing:
                slot.draft, slot.probabilities, slot.confidence = [], [], 1.0
                slot.proposed_at = len(slot.text.tokens)
                complete.append(slot)
        return list(zip(complete, self._decode(), strict=False)) if batch.size else []

    def _extend(self, active: list[tuple[_Slot, Logits]], texts: Sequence[Text]) -> list[tuple[_Slot, Logits]]:
        """Add a token to each draft that is worth it, and return the outputs behind those that may go on."""
        batch = self.context.batch
        num_drafted = sum(len(slot.draft) for slot in self._slots if slot.text is not None)
        batch.clear()
        going_on: list[_Slot] = []
        for slot, row in active:
            text = slot.text
            assert text is not None
            token, probability = self._likeliest(row)
            confidence = slot.confidence * self._agreement.rate(probability)
            if not self._is_worth(confidence, texts, num_drafted):
                continue
            slot.draft.append(token)
            slot.probabilities.append(probability)
            slot.confidence = confidence
            text.draft, text.draft_acceptance = list(slot.draft), confidence ** (1 / len(slot.draft))
            num_drafted += 1
            if len(slot.draft) < min(self._max_draft, text.max_length - len(text.tokens) - 1):
                batch.add(slot.number, len(slot.tokens), [token], 1, is_prompt=False)
                slot.tokens.append(token)
                going_on.append(slot)
        return list(zip(going_on, self._decode(), strict=False)) if going_on else []

    def _likeliest(self, row: Logits) -> tuple[int, float]:
        known = row[: self._num_tokens]
        token = int(known.argmax())
        with np.errstate(invalid="ignore"):  # a small model whose output is broken is never agreed with
            return token, float(1 / np.exp(known - known[token]).sum(dtype=np.float64))

    def _decode(self) -> Iterable[Logits]:
        """Compute the batch. Without room for it, what no text needs is dropped; without room even then, there are no drafts."""
        for is_last in (False, True):
            try:
                self.context.decode()
            except NoCells:
                for slot in self._slots:
                    if is_last or slot.text is None:
                        self._drop(slot, 0)
            else:
                return self.context.logits() if self.context.batch.num_outputs else ()
        return ()

    def _drop(self, slot: _Slot, start: int) -> None:
        if len(slot.tokens) > start:
            self.context.remove(slot.number, start)
            del slot.tokens[start:]
            slot.num_same = min(slot.num_same, start)


def _num_common(ours: list[int], theirs: list[int]) -> int:
    limit = min(len(ours), len(theirs) - 1)
    return next((at for at in range(limit) if ours[at] != theirs[at]), max(limit, 0))
