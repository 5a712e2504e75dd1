"""OpenAI's batch file format: one JSON object a line.

In:  ``{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}``
Out: ``{"id": "batch_req_...", "custom_id": "a", "response": {"status_code", "request_id", "body"}, "error": null}``,
where ``error`` is ``{"code", "message"}`` and ``response`` null for a request that got no answer.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from antiphon.toolkit.errors import BatchFileError, OutputError
from antiphon.toolkit.schemas.output_schema import describe_output

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class Request:
    """One call. ``custom_id`` names it in the output and must be unique in a run; ``url`` begins with ``/v1/``."""

    custom_id: str
    url: str
    body: Mapping[str, Any] = field(hash=False)

    @classmethod
    def chat(cls, custom_id: str, messages: str | Sequence[Mapping[str, Any]], *, model: str, **params: Any) -> Request:
        """Ask for a chat completion; a string is one user message. ``params`` go into the body as they are."""
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        return cls(custom_id, CHAT, {"model": model, "messages": turns, **params})

    @classmethod
    def embedding(cls, custom_id: str, text: str | Sequence[str], *, model: str, **params: Any) -> Request:
        """Ask for the vector of a text, or of several."""
        return cls(
            custom_id,
            EMBEDDINGS,
            {
                "model": model,
                "input": text if isinstance(text, str) else list(text),
                "encoding_format": "float",
                **params,
            },
        )

    @classmethod
    def parse(
        cls,
        custom_id: str,
        output: TypeForm[Any],
        messages: str | Sequence[Mapping[str, Any]],
        *,
        model: str,
        **params: Any,
    ) -> Request:
        """Ask for a value of ``output`` (any type that ``extract`` takes); read it with ``Result.parsed``.

        Raises SchemaError for a type that a strict schema cannot express.
        """
        wanted = describe_output(output).response_format
        return cls.chat(custom_id, messages, model=model, response_format=wanted, **params)

    @property
    def path(self) -> str:
        """The URL below the client's base URL, which itself ends in ``/v1``."""
        return self.url.removeprefix("/v1")

    @property
    def fingerprint(self) -> str:
        """Names the content, so that a resumed run notices a request that changed."""
        text = json.dumps([self.url, self.body], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def line(self) -> str:
        """Return the request as a line of a batch input file, without the newline."""
        record = {"custom_id": self.custom_id, "method": "POST", "url": self.url, "body": self.body}
        return json.dumps(record, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one request. ``status_code`` and ``body`` are None when no answer came; then ``error`` says why."""

    custom_id: str
    status_code: int | None
    request_id: str | None = None
    body: Any = None
    error: Mapping[str, str] | None = None

    @property
    def is_ok(self) -> bool:
        return self.status_code is not None and self.status_code < 400  # noqa: PLR2004 # HTTP's own bound

    @property
    def text(self) -> str:
        """The text of the first choice. Raises OutputError when the request failed or the answer has none."""
        choices: Any = as_object(self._answer()).get("choices")
        first = as_object(choices[0]) if isinstance(choices, list) and choices else {}
        content = as_object(first.get("message")).get("content")
        if not isinstance(content, str):
            raise OutputError(f"The answer to {self.custom_id!r} has no text", hint="look at result.body")
        return content

    @property
    def vectors(self) -> list[list[float]]:
        """The vectors of an embeddings request, in the order of its inputs. Raises OutputError when it failed."""
        answer = self._answer()
        try:
            return [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]
        except (KeyError, TypeError) as error:
            raise OutputError(f"The answer to {self.custom_id!r} has no vectors", hint="look at result.body") from error

    def parsed(self, output: TypeForm[T]) -> T:
        """Return the answer as a value of ``output``. Raises OutputError, with the text, when it does not validate."""
        text, schema = self.text, describe_output(output)
        try:
            return schema.read(text)
        except ValueError as error:
            raise OutputError(
                f"The answer to {self.custom_id!r} is not of the type {schema.name!r}: {error}",
                hint="raise max_tokens if the answer was cut",
                text=text,
            ) from error

    def record(self) -> dict[str, Any]:
        """Return the result as the object of a line of a batch output file."""
        response = None
        if self.status_code is not None:
            response = {"status_code": self.status_code, "request_id": self.request_id or "", "body": self.body}
        return {
            "id": f"batch_req_{uuid.uuid4().hex}",
            "custom_id": self.custom_id,
            "response": response,
            "error": self.error,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Result:
        """Read a line of a batch output file, decoded."""
        response = as_object(record.get("response"))
        return cls(
            record["custom_id"],
            response.get("status_code"),
            response.get("request_id") or None,
            response.get("body"),
            record.get("error"),
        )

    def _answer(self) -> Any:
        if not self.is_ok:
            raise OutputError(
                f"The request {self.custom_id!r} failed: {self.reason}", hint="run it again with retry_failed=True"
            )
        return self.body

    @property
    def reason(self) -> str:
        """Why it failed, in words; empty when it did not."""
        if self.is_ok:
            return ""
        if self.error is not None:
            return self.error["message"]
        told = as_object(as_object(self.body).get("error")).get("message")
        return str(self.body if told is None else told)


class RequestFile:
    """A batch input file, read line by line each time it is iterated; memory does not grow with it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Request]:
        """Yield the requests. Raises BatchFileError, naming the line, for one that cannot be read."""
        try:
            with self.path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield _read_request(line, f"{self.path}:{number}")
        except OSError as error:
            raise BatchFileError(
                f"Cannot read {str(self.path)!r}: {error.strerror}", hint="name a file of requests"
            ) from error


def write_requests(path: str | Path, requests: Iterable[Request]) -> int:
    """Write a batch input file, for ``run`` or for upload to a batch API; return the number of requests."""
    with Path(path).open("w", encoding="utf-8") as out:
        return sum(bool(out.write(request.line() + "\n")) for request in requests)


def read_results(path: str | Path) -> Iterator[Result]:
    """Yield the results of a batch output file. Raises BatchFileError, naming the line, for one that cannot be read."""
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                result = Result.from_record(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BatchFileError(f"{path}:{number}: not a line of a batch output file: {line[:60]!r}") from error
            yield result


def _read_request(line: str, where: str) -> Request:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise BatchFileError(f"{where}: not a JSON object: {error}") from error
    if not isinstance(record, dict):
        raise BatchFileError(f"{where}: not a JSON object, but {record!r:.80}")
    record = cast("dict[str, Any]", record)
    for key, kind in (("custom_id", str), ("url", str), ("body", dict)):
        if not isinstance(record.get(key), kind):
            raise BatchFileError(f"{where}: {key!r} is missing or no {kind.__name__}: {record.get(key)!r:.80}")
    if unknown := record.keys() - {"custom_id", "method", "url", "body"}:
        raise BatchFileError(f"{where}: unknown keys {sorted(unknown)!r}")
    if record.get("method", "POST") != "POST":
        raise BatchFileError(f"{where}: the method must be 'POST', not {record['method']!r}")
    if not record["url"].startswith("/v1/"):
        raise BatchFileError(f"{where}: the url must begin with '/v1/', not {record['url']!r}")
    if record["body"].get("stream"):
        raise BatchFileError(f"{where}: a streamed answer cannot be written to a file", hint='remove "stream"')
    return Request(record["custom_id"], record["url"], record["body"])


def as_object(value: Any) -> dict[str, Any]:
    """Return a decoded JSON object as it is, and an empty one for anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
