"""The contract of a runtime: what scheduler, step loop, sampling and embedding need from whatever computes a model.

Two runtimes implement it: llama.cpp (``llama``) and OpenVINO (``openvino``). The scheduler speaks of *slots*, and each slot
holds the keys and values of one sequence's first tokens. How a runtime stores them is its own affair: llama.cpp marks
cells with sequence ids, OpenVINO keeps a table of pages for each slot. In both, sharing copies (almost) nothing.
"""

from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.engine.model.sizing import ContextSettings, ModelFacts
from antiphon.engine.model.vocabulary import Vocabulary

Runtime = Literal["llama", "openvino"]


class ModelError(Exception):
    """A runtime refused; the message says what it said."""


class Aborted(ModelError):  # noqa: N818 - named after what happened
    """A decode was stopped by ``ModelContext.abort``; what was computed may remain behind the slots' ends."""


class NoCells(ModelError):  # noqa: N818 - named after what happened
    """There is no room for the batch; the context is as before."""


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime can do with one model, and which of its kernels round differently.

    ``max_slots`` can be told apart. ``may_drop_tokens``: the end of a slot can be dropped, so prefixes can be shared and drafts rejected.
    ``may_undo_steps``: an aborted decode can be undone by dropping what it added.
    ``kernels`` says how a row's last bits depend on its batch:

    - ``tiled``: batches of 64 rows or more and smaller ones are computed by different kernels (llama.cpp with flash attention).
    - ``plain``: a single row and several rows are.
    - ``paged``: tokens of a prompt and single tokens are, and a row that is alone in its batch; nothing else matters.
    - ``padded``: nothing matters; attention computes every text as if it were as long as the batch's longest (OpenVINO's
      encoders).
    """

    max_slots: int
    may_drop_tokens: bool = True
    may_undo_steps: bool = True
    kernels: Literal["tiled", "plain", "paged", "padded"]


class TokenBatch(Protocol):
    """Up to ``capacity`` tokens for one decode, each at a position of one slot."""

    @property
    def capacity(self) -> int:
        """Most tokens."""
        ...

    @property
    def size(self) -> int:
        """Tokens so far."""
        ...

    @property
    def num_outputs(self) -> int:
        """Rows that the decode yields."""
        ...

    def clear(self) -> None:
        """Forget all tokens."""
        ...

    def add(
        self, slot: int, start: int, tokens: list[int], num_outputs: int, padding: int = 0, *, is_prompt: bool = True
    ) -> None:
        """Append ``tokens`` of ``slot`` at positions from ``start``; the last ``num_outputs`` of them get an output row.

        After them come ``padding`` repetitions of the last one, without an output. ``is_prompt``: the tokens are computed
        by the kernels for prompts, at least two of them; otherwise each by the kernels for single tokens. A runtime
        without such a difference ignores it.
        """
        ...


class AnyContext(Protocol):
    """What contexts of every kind of model have. Not thread-safe."""

    @property
    def cells(self) -> int:
        """Tokens whose keys and values it can hold."""
        ...

    @property
    def batch(self) -> TokenBatch:
        """The tokens of the next decode."""
        ...

    @property
    def memory_bytes(self) -> int | None:
        """Bytes of keys, values and recurrent states. None: not known."""
        ...

    def decode(self) -> None:
        """Compute ``batch``.

        Raises:
            NoCells: there is no room. Aborted: ``ModelContext.abort`` was called. ModelError: any other failure.
        """
        ...

    def clear(self) -> None:
        """Empty every slot."""
        ...


class ModelContext(AnyContext, Protocol):
    """A text model's KV cache and compute buffers. After ``decode``, ``logits`` has a row for each token that requested one."""

    def abort(self, requested: bool) -> None:
        """Stop the running decode within milliseconds, or allow decodes again. Safe from any thread."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """Return a view of shape (outputs, vocabulary); it changes with the next decode."""
        ...

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Let slot ``target`` hold what ``source`` holds at positions ``start <= p < end``.

        ``start`` is a multiple of 64, and where ``target`` ends.
        """
        ...

    def remove(self, slot: int, start: int = 0) -> bool:
        """Drop what ``slot`` holds from position ``start`` on. False: this memory cannot do it."""
        ...


class PoolingContext(AnyContext, Protocol):
    """A context of an embedding model. A batch has whole texts, in slots 0, 1, ... in this order."""

    def embeddings(self, count: int) -> NDArray[np.float32]:
        """Return the pooled outputs of slots 0 to ``count`` - 1 in the last batch, not normalised, as rows of a copy.

        A row is a vector, or the outputs of the classification head.
        """
        ...


class LoadedFile(Protocol):
    """A model file in memory: what is known of it."""

    @property
    def runtime(self) -> Runtime:
        """What computes it."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Its tokens."""
        ...

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata, as text."""
        ...

    @property
    def architecture(self) -> str:
        """The file's ``general.architecture``."""
        ...

    @property
    def description(self) -> str:
        """Its kind, size and type, in a few words."""
        ...

    @property
    def training_context(self) -> int:
        """Tokens that it was trained with."""
        ...

    @property
    def embedding_size(self) -> int:
        """Numbers of an output vector."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights as they are served."""
        ...

    @property
    def num_parameters(self) -> int:
        """How many weights."""
        ...

    @property
    def facts(self) -> ModelFacts:
        """What the sizes of a context depend on.

        Raises:
            ModelError: it could not be found out.
        """
        ...

    @property
    def decodes_alone(self) -> bool:
        """Whether tokens can be decoded without the output of an encoder before them."""
        ...

    def traits(self, settings: ContextSettings) -> Traits:
        """Return what can be done with a context of these settings."""
        ...


class TextModel(LoadedFile, Protocol):
    """A model file that generates text."""

    def context(self, settings: ContextSettings) -> ModelContext:
        """Return a new context.

        Raises:
            ModelError: there is no memory for it, or the model does not allow the settings.
        """
        ...


class PoolingModel(LoadedFile, Protocol):
    """A model file that embeds or ranks."""

    @property
    def gives_vectors(self) -> bool:
        """Whether the model pools its outputs into one vector per text. A reranker does not."""
        ...

    @property
    def is_reranker(self) -> bool:
        """Whether a text's outputs go through a classification head."""
        ...

    @property
    def num_classes(self) -> int:
        """Outputs of the classification head, where there is one."""
        ...

    def context(self, settings: ContextSettings) -> PoolingContext:
        """Return a new context.

        Raises:
            ModelError: there is no memory for it, or the model does not allow the settings.
        """
        ...
