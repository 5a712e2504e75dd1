"""The messages between the API process and the engine process: msgpack over a socket.

Client to engine: ``Generate``, ``Prefill``, ``Embed``, ``Rank``, ``Tokenize``, ``Score``, ``Cancel``. Engine to client: ``Ready`` once, then for
each request its answers, which carry the request's ``id`` (unique per connection, chosen by the client). Over its
standard output the engine reports to its supervisor: each ``Phase`` of its start, ``Ready`` or ``LoadFailed`` once, and then ``Heartbeat`` by
``Heartbeat``.
"""

from typing import Literal

import msgspec

from antiphon.engine.statistics import EngineStatistics

# ---------------------------------------------------------------- to the engine


class Text(msgspec.Struct, frozen=True, tag="text"):
    """A piece of prompt as text. With ``special``, control tokens in it are recognised; without, they are plain text."""

    text: str
    special: bool = False


class Ids(msgspec.Struct, frozen=True, tag="ids"):
    """A piece of prompt as token ids."""

    ids: tuple[int, ...]


Priority = Literal["interactive", "batch"]
"""Nothing is computed for a batch while interactive requests can be."""

Prompt = tuple[Text | Ids, ...]
"""Pieces in order. Each is tokenised by itself, and nothing is added between, before or after them."""


class SamplingParams(msgspec.Struct, frozen=True):
    """How tokens are drawn. ``temperature`` 0 is greedy; ``seed`` None draws a fresh one; penalties span the generated text."""

    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None


class ClosingTexts(msgspec.Struct, frozen=True):
    """Texts that close what a constrained text is in the middle of, best first; one is forced when the text loops.

    ``max_word`` also bounds runs of visible ASCII characters without a blank; None where they may be of any length.
    """

    texts: tuple[str, ...]
    max_word: int | None = None


class Generate(msgspec.Struct, frozen=True, tag="generate", kw_only=True):
    """Continue ``prompt`` into ``n`` sequences (choice k is seeded with ``seed + k``).

    ``max_tokens`` None: up to the context, and at most ``default_max_tokens`` if that is given. ``stop`` strings end a sequence and are not part of its text.
    ``stop_token_ids`` end it like the model's own end-of-generation tokens. ``logprobs`` is the number of alternatives
    per token (0: the chosen token alone), None for none. ``grammar`` is an llguidance grammar (Lark text or its JSON
    form) that the text must follow; the sequence ends with reason ``stop`` when the grammar is complete and admits
    nothing more; with ``closing_texts``, a text that loops is closed by one of them where the grammar allows it. With
    ``ends_repetition``, a text without a grammar that loops ends with reason ``length``. ``special``
    renders control tokens as their text instead of nothing, for readers of tool syntax. ``echo_logprobs`` also reports
    the prompt tokens' log-probabilities. ``deadline_s`` counts from arrival.
    """

    id: int
    prompt: Prompt
    n: int = 1
    max_tokens: int | None = None
    default_max_tokens: int | None = None
    sampling: SamplingParams = SamplingParams()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    grammar: str | None = None
    closing_texts: ClosingTexts | None = None
    ends_repetition: bool = False
    special: bool = False
    echo_logprobs: bool = False
    deadline_s: float | None = None
    priority: Priority = "interactive"


class Prefill(msgspec.Struct, frozen=True, tag="prefill"):
    """Compute the whole blocks of ``prompt`` for requests that may begin with it, while nothing else runs.

    ``PrefillEnded`` answers: at once if a request runs, and early if one arrives.
    """

    id: int
    prompt: Prompt


class Embed(msgspec.Struct, frozen=True, tag="embed"):
    """Embed each prompt into one unit vector. ``Embedded`` answers.

    Each prompt gets the model's own first and last tokens around it.
    """

    id: int
    prompts: tuple[Prompt, ...]
    priority: Priority = "interactive"


class Rank(msgspec.Struct, frozen=True, tag="rank"):
    """Say how relevant a document is to a question, for each prompt with both in it. ``Ranked`` answers.

    Nothing is added around a prompt; see ``ModelInfo.pair``.
    """

    id: int
    prompts: tuple[Prompt, ...]
    priority: Priority = "interactive"


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize"):
    """Token ids of each prompt, or with ``only_lengths`` how many they are. ``Tokenized`` answers."""

    id: int
    prompts: tuple[Prompt, ...]
    only_lengths: bool = False


class Score(msgspec.Struct, frozen=True, tag="score"):
    """Log-probability of each continuation after ``prompt``. ``Scored`` answers."""

    id: int
    prompt: Prompt
    continuations: tuple[Prompt, ...]


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop request ``id`` wherever it is; unknown ids are ignored. Nothing more is sent for it."""

    id: int


Request = Generate | Prefill | Embed | Rank | Tokenize | Score | Cancel

# ---------------------------------------------------------------- from the engine


ModelKind = Literal["chat", "embedding", "reranker"]
"""What an engine does with its model: it generates, makes vectors, or ranks documents."""


class PairFrame(msgspec.Struct, frozen=True):
    """The token ids before, between and after two texts that a model reads together."""

    first: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    last: tuple[int, ...] = ()


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the model file declares. Texts of special tokens are empty where the model has none.

    ``control_tokens`` are the texts of all tokens that only the template may produce. ``context_length`` is what a
    request may use (prompt and completion together); ``training_context`` is the model's own. ``mark_ids`` are the ids
    of tokens that a grammar has to name by id, since none of its text matches them. ``longest_token`` is the
    most bytes of text that one token covers, None where there is no bound. A reranker has the template ``rerank``, or
    reads question and document in ``pair``.
    """

    architecture: str
    description: str
    context_length: int
    training_context: int
    vocabulary_size: int
    embedding_size: int
    size_bytes: int
    num_parameters: int
    chat_template: str | None
    templates: dict[str, str]
    bos_token: str
    eos_token: str
    adds_bos: bool
    control_tokens: tuple[str, ...]
    end_tokens: tuple[str, ...]
    fim_tokens: dict[str, str]
    metadata: dict[str, str]
    kind: ModelKind
    settings: dict[str, str]
    mark_ids: dict[str, int] = {}
    longest_token: int | None = None
    pair: PairFrame = PairFrame()


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """First message on every connection."""

    info: ModelInfo


class TopToken(msgspec.Struct, frozen=True):
    """An alternative at one position: id, raw bytes, natural log-probability from the unmodified logits."""

    id: int
    bytes: bytes
    logprob: float


class Token(msgspec.Struct, frozen=True):
    """One generated token. ``logprob`` and ``top`` are set when asked for."""

    id: int
    bytes: bytes
    logprob: float | None = None
    top: tuple[TopToken, ...] = ()


class Prefilled(msgspec.Struct, frozen=True, tag="started"):
    """The prompt is computed. ``prompt_logprobs`` has one entry per prompt token when ``echo_logprobs`` asked for it.

    ``queue_s`` is from the request's arrival at the engine to its first step, ``prefill_s`` from there to its first logits.
    """

    id: int
    prompt_tokens: int
    cached_tokens: int
    prompt_logprobs: tuple[Token, ...] = ()
    queue_s: float = 0.0
    prefill_s: float = 0.0


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """More text of choice ``index``: whole UTF-8 characters, nothing that may still become a stop string.

    ``tokens`` are those whose text this delta completes (empty unless ``logprobs`` asked for them);
    ``num_tokens`` counts the tokens generated for the choice so far.
    """

    id: int
    index: int
    text: str
    num_tokens: int
    tokens: tuple[Token, ...] = ()


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """Choice ``index`` is complete. ``stop``: end token, stop string or complete grammar; ``length``: max tokens or context."""

    id: int
    index: int
    reason: Literal["stop", "length"]
    num_tokens: int
    stop_string: str | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Request ``id`` ends here. ``limit`` and ``requested`` are tokens, for ``context``; see ``ContextOverflow``."""

    id: int
    kind: Literal["overloaded", "context", "deadline", "invalid", "grammar", "internal"]
    message: str
    retry_after_s: float | None = None
    limit: int = 0
    requested: int = 0
    is_lower_bound: bool = False


class Embedded(msgspec.Struct, frozen=True, tag="embedded"):
    """One little-endian float32 buffer of unit length per prompt, and how many tokens each prompt has."""

    id: int
    vectors: tuple[bytes, ...]
    lengths: tuple[int, ...]


class Ranked(msgspec.Struct, frozen=True, tag="ranked"):
    """The relevance of each prompt's document, from 0 to 1, and how many tokens each prompt has."""

    id: int
    relevance: tuple[float, ...]
    lengths: tuple[int, ...]


class Tokenized(msgspec.Struct, frozen=True, tag="tokenized"):
    """How many tokens each prompt has and, unless only that was asked for, their ids."""

    id: int
    ids: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...] = ()


class Scored(msgspec.Struct, frozen=True, tag="scored"):
    """Sum of log-probabilities and number of tokens of each continuation."""

    id: int
    logprobs: tuple[float, ...]
    num_tokens: tuple[int, ...]


class PrefillEnded(msgspec.Struct, frozen=True, tag="prefill_ended"):
    """The first ``num_tokens`` tokens of the prompt are in the prefix cache."""

    id: int
    num_tokens: int


Answer = Prefilled | Delta | Finished | Failed | Embedded | Ranked | Tokenized | Scored | PrefillEnded

# ---------------------------------------------------------------- from the engine to its supervisor


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """The model cannot be served; the process ends after this."""

    message: str
    hint: str


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """Sent several times a second. ``step_s`` is how long the current step or compilation has been running, 0 if none is."""

    step_s: float
    statistics: EngineStatistics


class Phase(msgspec.Struct, frozen=True, tag="phase"):
    """What the process does next, as "loading the model", and with what: so that its supervisor can report its death."""

    name: str
    library: str = ""
    instruction_sets: tuple[str, ...] = ()
    extra_buffers: bool = True
    weight_format: str = ""
    """Empty while it is not chosen."""
    runtime: str = ""
    """The same."""


Report = Phase | Ready | LoadFailed | Heartbeat
