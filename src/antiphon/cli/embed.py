"""``antiphon embed``: texts in, vectors out."""

import sys
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from antiphon.cli.connection import Server, piped
from antiphon.cli.output import FORM, print_json
from antiphon.errors import AntiphonError
from antiphon.toolkit.embeddings.embedder import DEFAULT_EMBEDDING_MODEL
from antiphon.toolkit.embeddings.embedder import embed as embed_texts
from antiphon.toolkit.embeddings.similarity import cosine_similarity


def embed(
    *texts: Annotated[str, Parameter(help="Each argument is a text; without any, each line that is piped in.")],
    model: Annotated[str, Parameter(help="Embedding model.")] = DEFAULT_EMBEDDING_MODEL,
    dimensions: Annotated[int | None, Parameter(help="Length of the vectors. [default: the model's own]")] = None,
    similarity: Annotated[
        bool, Parameter(negative="", help="Print the cosine similarity of each text to the first.", group=FORM)
    ] = False,
    json: Annotated[
        bool, Parameter(negative="", help="Print one JSON object with vectors, usage and cost.", group=FORM)
    ] = False,
    cache: Annotated[bool, Parameter(help="Read and write the cache of vectors on disk.")] = True,
    server: Server | None = None,
) -> int:
    """Embed texts: print a line of JSON for each. The vectors are cached on disk."""
    given = list(texts) or [line for line in (piped() or "").split("\n") if line.strip()]
    if not given:
        raise AntiphonError(
            "no text given", hint="antiphon embed 'first text' 'second text', or pipe one text per line"
        )
    with (server or Server()).client() as client:
        made = embed_texts(given, model=model, dimensions=dimensions, client=client, cache=cache)
    if similarity:
        for text, cosine in zip(given, np.asarray(cosine_similarity(made[0], made.vectors)), strict=True):
            print(f"{cosine:7.4f}  {text}")
    elif json:
        print_json(
            {
                "model": made.model,
                "texts": given,
                "vectors": made.vectors,
                "usage": made.usage,
                "cost": made.cost,
                "num_cached": made.num_cached,
            }
        )
    else:
        for text, vector in zip(given, made, strict=True):
            print_json({"text": text, "embedding": vector})
        print(
            f"{len(given)} texts, {made.num_cached} from the cache, {made.usage.total_tokens} tokens", file=sys.stderr
        )
    return 0
