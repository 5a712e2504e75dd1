"""An endpoint that answers by script, without a socket, and keeps a journal of what it was asked."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
from openai import AsyncOpenAI, OpenAI

from antiphon.backends.scripted.script import Reply, ReplySelector, Script, read_script
from antiphon.protocol import decode_json
from antiphon.protocol.errors import ApiError, model_not_found
from antiphon.protocol.rendering import model_value
from antiphon.testing.answers import Answer, Respond
from antiphon.testing.interception import AsyncSend, Send, UnexpectedRequestError, intercepted
from antiphon.testing.playing import OPERATIONS, Operation, Performance, failed

BASE_URL = "http://scripted.test/v1"


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of ``GET /models``."""

    id: str
    created: int = 0
    owned_by: str = "antiphon"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One request: method, path, JSON (None: none), and the status of its answer (None: the connection failed).

    Headers are not kept, since they hold the key.
    """

    method: str
    path: str
    request: dict[str, Any] | None
    status: int | None


@dataclass
class ScriptedEndpoint:
    """Plays answers in the order in which they were given, then the replies of a script.

    ``repeats``: the last answer is given again for ever; otherwise a request that no answer is left for raises
    UnexpectedRequestError. Requests for embeddings take no answer: texts that share words get vectors that are near, or
    what the script's replies say. ``routes`` answers other paths, such as ``/v1/tokenize``, and comes first.
    """

    replies: list[Answer] = field(default_factory=list[Answer])
    routes: dict[str, Respond] = field(default_factory=dict[str, Respond])
    script: Script | None = None
    base_url: str = BASE_URL
    repeats: bool = False
    journal: list[JournalEntry] = field(default_factory=list[JournalEntry])
    unexpected: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self._selector = None if self.script is None else ReplySelector(self.script)
        self._responses: dict[str, tuple[dict[str, Any], ...]] = {}

    def answers(self, *replies: Answer) -> None:
        """Add answers, one for each of the next requests: a text, or what ``answer``, ``calls`` and ``error`` return."""
        self.replies.extend(replies)

    def load(self, path: str | Path) -> None:
        """Answer by a script, in the format of the server's (TOML), once the answers in order are used up.

        Raises ConfigError for a script that is not valid.
        """
        self.script = read_script(Path(path))
        self._selector = ReplySelector(self.script)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The JSON of each request that was for a model, oldest first."""
        return [entry.request for entry in self.journal if entry.request is not None and _operation(entry.path)]

    @property
    def asked(self) -> list[str]:
        """The paths of all other requests."""
        return [entry.path for entry in self.journal if _operation(entry.path) is None]

    def sent(self, index: int = -1) -> list[tuple[str, Any]]:
        """Return the messages of a request as (role, content)."""
        return [(message["role"], message.get("content")) for message in self.requests[index]["messages"]]

    def assert_all_used(self) -> None:
        """Raise AssertionError if an answer is left, or a request came that none was left for."""
        assert not self.unexpected, "\n".join(self.unexpected)
        assert self.repeats or not self.replies, f"{len(self.replies)} answers were not used: {self.replies!r}"

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request, its body read."""
        try:
            response = self._answer(request)
        except ApiError as problem:
            response = failed(problem)
        except httpx2.TransportError as problem:
            self._note(request, None)
            problem.request = request
            raise
        except UnexpectedRequestError:
            self._note(request, None)
            raise
        self._note(request, response.status_code)
        return response

    def client(self, **options: Any) -> OpenAI:
        """Return a client of this endpoint alone; ``options`` are the client's own."""
        http_client = httpx2.Client(transport=httpx2.MockTransport(self.handle))
        return OpenAI(api_key="scripted", base_url=self.base_url, http_client=http_client, **options)

    def async_client(self, **options: Any) -> AsyncOpenAI:
        """Return an asynchronous client of this endpoint alone."""
        http_client = httpx2.AsyncClient(transport=httpx2.MockTransport(self.handle))
        return AsyncOpenAI(api_key="scripted", base_url=self.base_url, http_client=http_client, **options)

    @contextmanager
    def installed(self) -> Generator[None]:
        """Answer the requests of every httpx2 client of the process until the block ends."""

        def handle(request: httpx2.Request, _: Send) -> httpx2.Response:
            return self.handle(request)

        async def handle_async(request: httpx2.Request, _: AsyncSend) -> httpx2.Response:
            return self.handle(request)

        with intercepted(handle, handle_async):
            yield

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if (route := self.routes.get(path)) is not None:
            return route(_json(request) or {})
        operation = _operation(path)
        if request.method == "POST" and operation is not None:
            return self._generate(request, operation)
        if request.method == "GET" and (found := path.rpartition("/models"))[1]:
            return self._models(unquote(found[2].removeprefix("/")))
        raise ApiError(404, f"Invalid URL ({request.method} {path}).", code="unknown_url")

    def _generate(self, request: httpx2.Request, operation: Operation) -> httpx2.Response:
        value = decode_json(request.content, request.headers.get("content-type"))
        if operation != "embeddings" and self.replies and not isinstance(self.replies[0], str | Reply):
            respond = self._take()
            assert not isinstance(respond, str | Reply)
            return respond(value)
        # Read first: a request that the API refuses uses no answer up.
        performance = Performance(operation, value, self._responses)
        reply = self._reply(request, performance, operation)
        return performance.play(reply, self.script.embedding_size if self.script else Script().embedding_size)

    def _reply(self, request: httpx2.Request, performance: Performance, operation: Operation) -> Reply:
        if operation != "embeddings" and self.replies:
            given = self._take()
            assert isinstance(given, str | Reply)
            return Reply(text=given) if isinstance(given, str) else given
        if self._selector is not None:
            self._require_served(performance.model, operation)
            return self._selector.reply(performance.model, performance.last_message)
        if operation == "embeddings":
            return Reply()
        told = json.dumps(_json(request), indent=2, ensure_ascii=False)
        number = len(self.requests) + 1
        self.unexpected.append(f"No answer is left for request {number} ({request.url.path}):\n{told}")
        raise UnexpectedRequestError(self.unexpected[-1])

    def _take(self) -> Answer:
        return self.replies[0] if self.repeats and len(self.replies) == 1 else self.replies.pop(0)

    def _require_served(self, model: str, operation: Operation) -> None:
        if self.script is None:
            return
        served = self.script.embedding_models if operation == "embeddings" else self.script.models
        if model not in served:
            raise model_not_found(model, served)

    def _models(self, model: str) -> httpx2.Response:
        script = self.script or Script()
        length = {} if script.context_length is None else {"context_length": script.context_length}
        chat = [{**model_value(ListedModel(name)), **length} for name in script.models]
        models = [*chat, *(model_value(ListedModel(name)) for name in script.embedding_models)]
        if not model:
            return httpx2.Response(200, json={"object": "list", "data": models})
        if (found := next((each for each in models if each["id"] == model), None)) is None:
            raise model_not_found(model)
        return httpx2.Response(200, json=found)

    def _note(self, request: httpx2.Request, status: int | None) -> None:
        self.journal.append(JournalEntry(request.method, request.url.path, _json(request), status))


def _operation(path: str) -> Operation | None:
    return next((operation for operation in OPERATIONS if path.endswith(f"/{operation}")), None)


def _json(request: httpx2.Request) -> dict[str, Any] | None:
    """Return the request's JSON object; None for anything else, such as an uploaded file."""
    try:
        value: object = json.loads(request.content)
    except ValueError:
        return None
    return dict(value) if isinstance(value, Mapping) else None  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
