"""``POST /v1/completions``: from JSON to a ``CompletionRequest``, or to OpenAI's error."""

from typing import Any

from antiphon.protocol import problems
from antiphon.protocol.chat_fields import logit_bias, n, penalty, seed, stop, stream_options, temperature, top_p, user
from antiphon.protocol.chat_request import check_body, check_together, read_sampling, read_stop
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.fields import Flag, Integer, String
from antiphon.protocol.shapes import Object
from antiphon.protocol.token_input import Inputs, read_inputs, wrong_prompt

_MAX_BEST_OF = 20

completion = Object(
    {
        "model": String(min_length=1),
        "prompt": Inputs(wrong_prompt, nullable=True),
        "suffix": String(nullable=True, note="For models with infill tokens; refused otherwise."),
        "max_tokens": Integer(minimum=0, nullable=True),
        "n": n,
        "best_of": Integer(minimum=0, maximum=_MAX_BEST_OF, nullable=True),
        "temperature": temperature,
        "top_p": top_p,
        "presence_penalty": penalty,
        "frequency_penalty": penalty,
        "logprobs": Integer(minimum=0, maximum=5, nullable=True),
        "echo": Flag(nullable=True),
        "user": user,
        "seed": seed,
        "stop": stop,
        "logit_bias": logit_bias,
        "stream": Flag(nullable=True),
        "stream_options": stream_options,
    },
    required=("model", "prompt"),
)


def parse_completion(obj: Any) -> CompletionRequest:
    """Turn a decoded body into a request. Raises ``ApiError`` 400, worded as OpenAI's.

    A null prompt is the beginning of a document: the empty text.
    """
    request = check_body(obj, completion)
    check_together(request)
    choices = request.get("n") or 1
    given = request.get("best_of")
    best_of = choices if given is None else given
    _check_best_of(choices, best_of, streams=bool(request.get("stream")))
    if request.get("suffix") is not None and request.get("echo") and request.get("logprobs") is not None:
        # The prompt's tokens are then not those of the text: the suffix is among them.
        raise problems.bad_request(
            "Setting 'suffix', 'echo' and 'logprobs' at the same time is not supported.",
            "echo",
            "invalid_parameter_combination",
        )
    completion.refuse(request, "")
    max_tokens = request.get("max_tokens")
    options: dict[str, Any] = request.get("stream_options") or {}
    return CompletionRequest(
        model=request["model"],
        prompts=("",) if request["prompt"] is None else read_inputs(request["prompt"]),
        suffix=request.get("suffix"),
        sampling=read_sampling(request),
        max_tokens=16 if max_tokens is None else max_tokens,
        n=choices,
        best_of=best_of,
        echo=bool(request.get("echo")),
        logprobs=request.get("logprobs"),
        stop=read_stop(request),
        stream=bool(request.get("stream")),
        include_usage=options.get("include_usage", False),
        include_obfuscation=options.get("include_obfuscation", False),
        user=request.get("user"),
        raw=request,
    )


def _check_best_of(choices: int, best_of: int, *, streams: bool) -> None:
    if best_of < choices:
        raise problems.bad_request(
            "You requested that the server return more choices than it will generate (HINT: you must set 'n' "
            f"(currently {choices}) to be at most 'best_of' (currently {best_of}), or omit either parameter if you "
            "don't specifically want to use them.)",
            "best_of",
        )
    if streams and best_of > choices:
        raise problems.bad_request("You cannot stream results with 'best_of' greater than 'n'.", "best_of")
