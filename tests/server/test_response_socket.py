"""Responses over a WebSocket: the official client's ``connect()``, and clients that behave badly."""

import asyncio
import json
import socket
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.server.test_accounts_over_http import in_database
from tests.serving import Running, running
from tests.waiting import PATIENCE_S, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from antiphon.accounts import Principal
from antiphon.accounts.reports import UsageQuery
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall, ScriptedError
from antiphon.server.console.settings import ConsoleSettings
from antiphon.server.responses.socket import MAX_LANES, MAX_REMEMBERED, MAX_WAITING, RecentResponses, bare, in_lane
from antiphon.state import KeptResponse, ResponseSettings

MODEL = "gpt-4o-mini"
REPLIES = (
    Reply(match=Pattern(last_message="break"), text="one two three", error=ScriptedError(status=500), after=2),
    Reply(match=Pattern(last_message="refuse me"), error=ScriptedError(status=429, code="rate_limit_exceeded")),
    Reply(match=Pattern(last_message="hang"), text="one two three four", fault="hang", after=2),
    Reply(match=Pattern(last_message="weather"), tool_calls=(ScriptedCall(name="get_weather", arguments={}),)),
)
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


def backend() -> ScriptedBackend:
    return ScriptedBackend(Script(models=(MODEL,), replies=REPLIES))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    with running(backend(), tmp_path_factory.mktemp("home"), max_body_bytes=1_000_000) as up:
        yield up


@pytest.fixture
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


def address(server: Running) -> str:
    return server.url.replace("http:", "ws:") + "/responses"


@pytest.fixture
def ws(server: Running) -> Generator[ClientConnection]:
    with connect(address(server)) as made:
        yield made


def send(ws: ClientConnection, **fields: Any) -> None:
    ws.send(json.dumps({"type": "response.create", "model": MODEL, **fields}))


def receive(ws: ClientConnection) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(ws.recv(timeout=PATIENCE_S))
    return value


def until_end(ws: ClientConnection) -> list[dict[str, Any]]:
    """The events up to the one that ends a response, or an error."""
    events = [receive(ws)]
    while events[-1]["type"] not in {"response.completed", "response.incomplete", "response.failed", "error"}:
        events.append(receive(ws))
    return events


def ask(ws: ClientConnection, text: Any, **fields: Any) -> dict[str, Any]:
    send(ws, input=text, **fields)
    last = until_end(ws)[-1]
    assert last["type"] == "response.completed", last
    response: dict[str, Any] = last["response"]
    return response


def refused(ws: ClientConnection) -> dict[str, Any]:
    last = until_end(ws)[-1]
    assert last["type"] == "error"
    return last


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


def test_the_official_client_converses_over_one_connection(client: openai.OpenAI) -> None:
    """Events as over HTTP, and what is not stored is remembered in the connection."""
    with client.responses.connect() as connection:
        connection.response.create(model=MODEL, input="hello there", store=False)
        events: list[Any] = []
        for event in connection:
            events.append(event)
            if event.type == "response.completed":
                break
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        first = events[-1].response
        assert first.output_text == "hello there"
        connection.response.create(model=MODEL, input="and now", previous_response_id=first.id, store=False)
        second = next(event for event in connection if event.type == "response.completed").response
        assert second.usage.input_tokens > first.usage.input_tokens
        assert second.previous_response_id == first.id


def test_a_stored_response_is_followed_from_anywhere(client: openai.OpenAI, ws: ClientConnection) -> None:
    """Over HTTP after the WebSocket, and the other way round."""
    stored = ask(ws, "hello", store=True)
    assert client.responses.create(model=MODEL, input="x", previous_response_id=stored["id"]).status == "completed"
    over_http = client.responses.create(model=MODEL, input="hello")
    assert ask(ws, "x", previous_response_id=over_http.id)["status"] == "completed"


def test_what_is_remembered_ends_with_the_connection(server: Running, ws: ClientConnection) -> None:
    """Another connection does not know it; the error has OpenAI's code and a status."""
    kept = ask(ws, "hello", store=False)
    with connect(address(server)) as other:
        send(other, input="x", previous_response_id=kept["id"])
        error = refused(other)
    assert (error["status"], error["error"]["code"]) == (400, "previous_response_not_found")
    assert error["error"]["param"] == "previous_response_id"


def test_a_warm_up_answers_nothing_and_can_be_followed(ws: ClientConnection) -> None:
    """``generate: false``: created, completed without output; the next response follows it."""
    send(ws, input="a long prompt", generate=False, store=False, instructions="Be brief.", tools=[WEATHER])
    events = until_end(ws)
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.completed"]
    warm = events[-1]["response"]
    assert (warm["output"], warm["status"]) == ([], "completed")
    assert warm["usage"]["input_tokens"] > 0
    assert text_of(ask(ws, "go on", previous_response_id=warm["id"], store=False)) == "go on"
    for options in ({"prewarm": True}, {"prewarm": True, "mode": "implicit"}):
        send(ws, input="x", prompt_cache_options=options, generate=True, store=False)
        assert until_end(ws)[-1]["response"]["output"] == []
    for options in ({"prewarm": False}, {"mode": "implicit"}, {}, None):
        assert text_of(ask(ws, "go on", prompt_cache_options=options, store=False)) == "go on"


def test_a_tool_loop_needs_no_store(ws: ClientConnection) -> None:
    """The call is remembered; its result alone is sent."""
    asked = ask(ws, "weather?", tools=[WEATHER], store=False)
    (call,) = asked["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "12 degrees"}
    assert text_of(ask(ws, [result], previous_response_id=asked["id"], store=False)) == "12 degrees"


def test_one_lane_is_answered_in_order_and_lanes_at_once(ws: ClientConnection) -> None:
    """A lane that hangs does not hold up another; its own requests wait."""
    send(ws, input="hang", stream_id="slow")
    send(ws, input="after it", stream_id="slow")
    while receive(ws)["type"] != "response.output_text.delta":
        pass
    send(ws, input="quick", stream_id="fast")
    events = [event for event in until_end(ws) if event["stream_id"] == "fast"]
    assert events[-1]["type"] == "response.completed"
    for number in range(3):
        send(ws, input=f"number {number}")
    texts = [text_of(until_end(ws)[-1]["response"]) for _ in range(3)]
    assert texts == ["number 0", "number 1", "number 2"]


def test_errors_are_events_and_the_connection_goes_on(ws: ClientConnection) -> None:
    """Before the first event an ``error`` with its status, later ``response.failed``."""
    send(ws, input="refuse me", stream_id="a")
    error = refused(ws)
    assert (error["status"], error["error"]["code"], error["stream_id"]) == (429, "rate_limit_exceeded", "a")
    send(ws, input="break")
    failed = until_end(ws)[-1]
    assert (failed["type"], failed["response"]["error"]["code"]) == ("response.failed", "server_error")
    send(ws, input="x", model="unknown")
    assert refused(ws)["status"] == 404
    assert ask(ws, "hello")["status"] == "completed"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("not json", "not valid JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "response.create"),
        ('{"type": "session.update"}', "response.create"),
        ('{"type": 3}', "response.create"),
        ('{"type": "response.create"}', "model"),
        ('{"type": "response.create", "model": "gpt-4o-mini", "input": "x", "stream": false}', "leave 'stream' out"),
        ('{"type": "response.create", "model": "gpt-4o-mini", "input": "x", "background": true}', "Background mode"),
        ('{"type": "response.create", "model": "gpt-4o-mini", "input": "x", "generate": 1}', "generate"),
        ('{"type": "response.create", "model": "gpt-4o-mini", "input": "x", "stream_id": ""}', "stream_id"),
        ('{"type": "response.create", "model": "gpt-4o-mini", "input": "x", "stream_id": 7}', "stream_id"),
        ('{"type": "response.create", "model": "gpt-4o-mini", "input": "x", "nonsense": 7}', "nonsense"),
        ('{"type": "response.create", "model": "gpt-4o-mini", "input": "x", "prompt_cache_options": {"ttl": "30m"}}', "prompt_cache_options.ttl"),
        ('{"type": "response.create", "model": "gpt-4o-mini", "input": "x", "prompt_cache_options": {"prewarm": true, "ttl": "30m"}}', "prompt_cache_options.ttl"),
        ('{"type": "response.create", "model": "gpt-4o-mini", "input": "x", "prompt_cache_options": {"prewarm": 1}}', "prompt_cache_options.prewarm"),
        ("[" * 5000, "JSON"),
        ("", "JSON"),
    ],
)  # fmt: skip
def test_a_malformed_event_is_an_error_and_no_more(ws: ClientConnection, message: str, words: str) -> None:
    """The connection lives on."""
    ws.send(message)
    error = refused(ws)
    assert error["status"] == 400
    assert words in error["error"]["message"]
    assert ask(ws, "hello")["status"] == "completed"


def test_steering_fails_in_the_words_of_the_protocol(client: openai.OpenAI) -> None:
    """The input comes back, so that the client can send it as a request; the code says why."""
    with client.responses.connect() as connection:
        connection.send({"type": "response.steer", "previous_response_id": "resp_1", "input": "stop"})  # type: ignore[arg-type]
        event: Any = connection.recv()
        assert event.to_dict() == {
            "type": "response.steer.failed",
            "sequence_number": 0,
            "error": event.to_dict()["error"],
            "steer": {"input": "stop", "previous_response_id": "resp_1"},
        }
        assert event.to_dict()["error"]["code"] == "response_not_found"
        connection.send({"type": "response.steer", "input": "stop"})  # type: ignore[arg-type]
        assert connection.recv().to_dict()["error"]["code"] == "invalid_input"


def test_bytes_are_read_as_text(ws: ClientConnection) -> None:
    """A binary frame with JSON is a message like any other; one without is an error."""
    ws.send(json.dumps({"type": "response.create", "model": MODEL, "input": "hi"}).encode())
    assert until_end(ws)[-1]["type"] == "response.completed"
    ws.send(b"\xff\xfe")
    assert refused(ws)["status"] == 400


def test_a_message_that_is_too_large_ends_the_connection(server: Running, ws: ClientConnection) -> None:
    """1009, as RFC 6455 has it; other connections do not notice."""
    ws.send(json.dumps({"type": "response.create", "model": MODEL, "input": "x" * 1_100_000}))
    with pytest.raises(ConnectionClosed) as caught:
        ws.recv(timeout=PATIENCE_S)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009
    with connect(address(server)) as other:
        assert ask(other, "hello")["status"] == "completed"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xc1\x85\x00\x00\x00\x00hello",  # a reserved bit
        b"\x81\x05hello",  # not masked
        b"\x83\x80\x00\x00\x00\x00",  # a reserved opcode
        b"\x89\xfe\x00\x80\x00\x00\x00\x00" + b"x" * 128,  # a ping that is too long
        b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",  # a length past all bounds
        b"\x81\x82\x00\x00\x00\x00\xff\xff",  # text that is not UTF-8
        b"\x80\x81\x00\x00\x00\x00x",  # a continuation of nothing
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_hostile_frames_end_their_connection_alone(server: Running, garbage: bytes) -> None:
    """The server closes it, and answers others."""
    with raw_connection(server) as raw:
        raw.sendall(garbage)
        raw.settimeout(PATIENCE_S)
        while raw.recv(4096):
            pass
    with connect(address(server)) as other:
        assert ask(other, "hello")["status"] == "completed"


def raw_connection(server: Running, host: str = "127.0.0.1", status: int = 101) -> socket.socket:
    address, port = server.root.removeprefix("http://").split(":")
    raw = socket.create_connection((address, int(port)), timeout=PATIENCE_S)
    raw.sendall(
        f"GET /v1/responses HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += raw.recv(1)
    assert head.startswith(b"HTTP/1.1 %d" % status)
    return raw


def test_many_connections_are_answered_at_once(server: Running) -> None:
    """Forty connections, each with two lanes."""
    with ExitStack() as stack:
        open_ = [stack.enter_context(connect(address(server))) for _ in range(40)]
        for number, ws in enumerate(open_):
            send(ws, input=f"a {number}", stream_id="a")
            send(ws, input=f"b {number}", stream_id="b")
        for number, ws in enumerate(open_):
            said = {text_of(until_end(ws)[-1]["response"]) for _ in range(2)}
            assert said == {f"a {number}", f"b {number}"}


def test_lanes_and_waiting_requests_are_bounded(server: Running) -> None:
    """Past the bounds a request is an error at once."""
    with connect(address(server)) as ws:
        for number in range(MAX_LANES + 1):
            send(ws, input="hang", stream_id=str(number))
        error = refused(ws)
        assert (error["status"], error["stream_id"]) == (429, str(MAX_LANES))
    with connect(address(server)) as ws:
        for _ in range(MAX_WAITING + 2):
            send(ws, input="hang")
        assert refused(ws)["status"] == 429
    wait_until(lambda: server.service.in_flight.count == 0)
    wait_until(lambda: server.service.bodies.num_bytes_held == 0)


def test_a_cut_connection_stops_the_generation_and_has_its_row(tmp_path: Path) -> None:
    """In the middle of a response, with others waiting: everything stops, nothing stays held, and one row says what ran."""
    with running(backend(), tmp_path) as up:
        with raw_connection(up) as raw:
            body = json.dumps({"type": "response.create", "model": MODEL, "input": "hang"}).encode()
            for _ in range(3):
                raw.sendall(bytes([0x81, 0x80 | len(body), 0, 0, 0, 0]) + body)
            received = b""
            while b"output_text.delta" not in received:
                received += raw.recv(65536)
        wait_until(lambda: up.service.in_flight.count == 0)
        wait_until(lambda: up.service.bodies.num_bytes_held == 0)
        (row,) = run_there(up, up.service.accounts.report(UsageQuery()))
        assert (row.num_requests, row.num_failed) == (1, 1)
        assert row.prompt_tokens > 0


def test_the_upgrade_is_checked_before_anything_is_said(tmp_path: Path) -> None:
    """A foreign page, another host name, a query and another path are refused as over HTTP."""
    with running(backend(), tmp_path) as up:
        for path in ("responses", "realtime"):
            target = address(up).replace("responses", path)
            with pytest.raises(InvalidStatus) as caught, connect(target, origin="https://evil.example"):  # type: ignore[arg-type]
                pass
            assert caught.value.response.status_code == 403
        headers = {"x-client-request-id": "x" * 513}
        with pytest.raises(InvalidStatus) as caught, connect(address(up), additional_headers=headers):
            pass
        assert caught.value.response.status_code == 400
        with raw_connection(up, host="evil.example", status=403):
            pass
        with pytest.raises(InvalidStatus) as caught, connect(address(up) + "?x=1"):
            pass
        assert caught.value.response.status_code == 400
        assert "error" in json.loads(caught.value.response.body)
        with pytest.raises(InvalidStatus) as caught, connect(address(up).replace("responses", "realtime")):
            pass
        assert caught.value.response.status_code == 404


def test_a_fault_before_the_handshake_is_a_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In OpenAI's envelope, with the request's id."""

    async def broken(*_: object) -> Principal:
        raise KeyError

    with running(backend(), tmp_path) as up:
        monkeypatch.setattr(up.service.access, "authenticate", broken)
        with pytest.raises(InvalidStatus) as caught, connect(address(up)):
            pass
        response = caught.value.response
        assert (response.status_code, json.loads(response.body)["error"]["type"]) == (500, "server_error")
        assert response.headers["x-request-id"] in json.loads(response.body)["error"]["message"]


def test_a_key_is_asked_for_at_the_upgrade_and_for_each_request(tmp_path: Path) -> None:
    """A key that is revoked meanwhile gets a 401 for its next request."""
    with running(backend(), tmp_path) as up:
        key = in_database(tmp_path, lambda store: store.create(Principal(name="bob")))[0]
        wait_until(lambda: httpx.get(f"{up.url}/models").status_code == 401)
        with pytest.raises(InvalidStatus) as caught, connect(address(up)):
            pass
        assert caught.value.response.status_code == 401
        with connect(address(up), additional_headers={"authorization": f"Bearer {key}"}) as ws:
            assert ask(ws, "hello")["status"] == "completed"
            in_database(tmp_path, lambda store: store.revoke("bob"))
            send(ws, input="x")
            assert refused(ws)["status"] == 401


def run_there(server: Running, work: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(work, server.loop).result(PATIENCE_S)


def test_a_request_is_captured_for_the_console_without_its_secrets(tmp_path: Path) -> None:
    """As one over HTTP: what was asked and what was answered, and no token of an MCP server."""
    settings = ResponseSettings(hosted_tools="leave-out")
    tool = {"type": "mcp", "server_label": "a", "server_url": "http://h/SECRET", "authorization": "SECRET"}
    with running(backend(), tmp_path, responses=settings, console=ConsoleSettings(capture=True)) as up:
        with connect(address(up)) as ws:
            assert ask(ws, "hello", tools=[tool])["tools"] == []
        ring = up.service.console.capture
        assert ring is not None
        (captured,) = ring._entries.values()
        assert b"hello" in captured.contents.request
        assert b"SECRET" not in captured.contents.request
        assert b"response.completed" in b"".join(captured.contents.answer)


def test_the_number_of_connections_is_bounded(tmp_path: Path) -> None:
    """Past it the upgrade gets a 503 and when to try again."""
    with running(backend(), tmp_path, responses=ResponseSettings(max_websockets=1)) as up, connect(address(up)):
        with pytest.raises(InvalidStatus) as caught, connect(address(up)):
            pass
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["retry-after"]


def test_a_connection_ends_after_its_time(tmp_path: Path) -> None:
    """An error says so; what runs is finished first, and then the connection is closed."""
    settings = ResponseSettings(websocket_limit_s=0.3)
    with running(backend(), tmp_path, responses=settings) as up, connect(address(up)) as ws:
        error = receive(ws)
        assert (error["type"], error["error"]["code"]) == ("error", "websocket_connection_limit_reached")
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(timeout=PATIENCE_S)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1000


def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    """With the code on which clients connect again when they need to."""
    settings = ResponseSettings(websocket_idle_s=0.3)
    with running(backend(), tmp_path, responses=settings) as up, connect(address(up)) as ws:
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(timeout=PATIENCE_S)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001


def test_the_servers_end_closes_idle_connections_and_fails_what_runs(tmp_path: Path) -> None:
    """1012, on which clients connect again; a response that runs gets the grace time and then says that it failed."""
    with running(backend(), tmp_path) as up, ExitStack() as stack:
        idle, busy = (stack.enter_context(connect(address(up))) for _ in range(2))
        send(busy, input="hang")
        while receive(busy)["type"] != "response.output_text.delta":
            pass
        up.loop.call_soon_threadsafe(up.stop.set)
        with pytest.raises(ConnectionClosed) as caught:
            idle.recv(timeout=PATIENCE_S)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        assert until_end(busy)[-1]["type"] == "response.failed"
        with pytest.raises(ConnectionClosed):
            busy.recv(timeout=PATIENCE_S)


def test_the_oldest_responses_are_forgotten() -> None:
    """By number and by size; the latest is always there."""
    recent = RecentResponses(max_bytes=100)
    kept = [KeptResponse(id=f"resp_{n}", account="a", body={"output": []}, input=()) for n in range(MAX_REMEMBERED + 1)]
    for each in kept:
        recent.add(each, 1)
    assert recent.find("resp_0") is None
    assert recent.find("resp_1") is not None
    recent.add(KeptResponse(id="large", account="a", body={"output": []}, input=()), 1000)
    assert recent.find("large") is not None
    assert recent.find(f"resp_{MAX_REMEMBERED}") is None


def test_a_response_that_is_remembered_again_counts_once() -> None:
    """An upstream may end a response twice; the others are not forgotten for it."""
    recent = RecentResponses(max_bytes=100)
    kept = [KeptResponse(id=f"resp_{n}", account="a", body={"output": []}, input=()) for n in range(2)]
    recent.add(kept[0], 40)
    for _ in range(9):
        recent.add(kept[1], 40)
    assert recent.find("resp_0") is not None
    assert recent.find("resp_1") is not None


def test_an_event_without_fields_gets_its_lane() -> None:
    """It stays JSON."""
    for event in (b"{}", b"{ }\n", b'{"a":{}} '):
        assert json.loads(in_lane(event, "a"))["stream_id"] == "a"


def test_a_frame_is_bared_of_its_transport() -> None:
    """The JSON alone, with the lane that it belongs to."""
    frame = b'event: a\ndata: {"type":"a","x":"data: "}\n\n'
    assert json.loads(bare(frame, None)) == {"type": "a", "x": "data: "}
    assert json.loads(bare(frame, 'l"')) == {"type": "a", "x": "data: ", "stream_id": 'l"'}


def test_a_client_that_does_not_read_holds_up_nobody(server: Running) -> None:
    """Its lane waits; another connection is answered."""
    with raw_connection(server) as raw:
        body = json.dumps({"type": "response.create", "model": MODEL, "input": "word " * 3000}).encode()
        head = bytes([0x81, 0xFE]) + len(body).to_bytes(2, "big") + bytes(4)
        for _ in range(MAX_WAITING):
            raw.sendall(head + body)
        with connect(address(server)) as other:
            assert ask(other, "hello")["status"] == "completed"
    wait_until(lambda: server.service.in_flight.count == 0)
