"""What forwarding may not change, and what it may not let through: odd requests and answers, and hostile ones."""

import asyncio
import gzip
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from aiohttp import web
from tests.backends.recording_api import Handler
from tests.server.test_forwarding import ODD_ANSWER, ODD_JSON, front, new_key, odd_answer
from tests.waiting import until

from antiphon.accounts import Principal
from antiphon.backends.routing import RouteSettings, TargetSettings

pytestmark = pytest.mark.anyio


def answer_with(body: bytes, status: int = 200, **headers: str) -> Handler:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(_: web.Request, __: bytes) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=named)

    return answer


async def pieces() -> AsyncGenerator[bytes]:
    for at in range(5):
        yield bytes([at]) * 10_000


async def raw(root: str, request: bytes) -> bytes:
    """Send bytes as they are; return the whole answer."""
    host, port = root.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.replace(b"HOST", f"{host}:{port}".encode()))
    try:
        return await reader.read()
    finally:
        writer.close()


BOUNDARY = "--=_odd+boundary/1,2"
FORM = (
    (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\nContent-Type: x/y\r\n\r\n'
    ).encode()
    + bytes(range(256))
    + f"\r\n--{BOUNDARY}--\r\nepilogue".encode()
)

REQUESTS: dict[str, tuple[str, str, dict[str, str], Any]] = {
    "json with blanks and escapes": (
        "POST",
        "/v1/things",
        {"content-type": "application/json; charset=utf-8"},
        ODD_JSON,
    ),
    "json that is none": ("POST", "/v1/things", {"content-type": "application/json"}, b'{"a": '),
    "json without a content type": ("POST", "/v1/things", {}, b'{"a": 1}'),
    "a list": ("POST", "/v1/things", {"content-type": "application/json"}, b"[1, 2]"),
    "nothing": ("POST", "/v1/things/thing-123456/cancel", {}, b""),
    "binary": ("POST", "/v1/things", {"content-type": "application/octet-stream"}, bytes(range(256)) * 100),
    "text": ("POST", "/v1/things", {"content-type": "text/plain; charset=latin-1"}, b"\xe4\xf6"),
    "compressed json": (
        "POST",
        "/v1/things",
        {"content-type": "application/json", "content-encoding": "gzip"},
        gzip.compress(ODD_JSON),
    ),
    "a form with an odd boundary": (
        "POST",
        "/v1/things",
        {"content-type": f'multipart/form-data; boundary="{BOUNDARY}"'},
        FORM,
    ),
    "a form that breaks off": (
        "POST",
        "/v1/things",
        {"content-type": f'multipart/form-data; boundary="{BOUNDARY}"'},
        FORM[:-60],
    ),
    "url encoded": ("POST", "/v1/things", {"content-type": "application/x-www-form-urlencoded"}, b"a=%20+b&c"),
    "put": ("PUT", "/v1/things/1", {"content-type": "application/json"}, ODD_JSON),
    "patch": ("PATCH", "/v1/things/1", {"content-type": "application/json"}, ODD_JSON),
    "delete with a body": ("DELETE", "/v1/things/1", {"content-type": "application/json"}, ODD_JSON),
    "get with a body": ("GET", "/v1/things", {"content-type": "application/json"}, ODD_JSON),
    "options": ("OPTIONS", "/v1/things", {}, b""),
    "an odd method": ("PROPFIND", "/v1/things", {}, b""),
    "a trailing slash": ("GET", "/v1/things/", {}, b""),
    "two slashes": ("GET", "/v1/things//x", {}, b""),
    "encoded segments": ("GET", "/v1/things/a%20b%2Bc%C3%A9/d+e;f=1", {}, b""),
    "an odd query": ("GET", "/v1/things?a=%2B+%20&a=&b&=c&d[]=%5B%5D&e=%C3%A9%ff", {}, b""),
    "a range": ("GET", "/v1/things/1/content", {"range": "bytes=1-3", "if-none-match": '"a"', "accept": "x/y"}, b""),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_arrives_as_it_was_sent(tmp_path: Path, name: str) -> None:
    """Method, target, headers of meaning and body, whatever they are; a chunked body has no length there either."""
    method, target, headers, body = REQUESTS[name]
    async with front(tmp_path) as (api, server, client, _):
        lines = [
            f"{method} {target} HTTP/1.1",
            "host: HOST",
            "connection: close",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        length = [f"content-length: {len(body)}"] if body else []
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(body[at : at + 9]), body[at : at + 9]) for at in range(0, len(body), 9)
        )
        framed = [(length, body)] + ([(["transfer-encoding: chunked"], chunks + b"0\r\n\r\n")] if body else [])
        for more, sent in framed:
            answer = await raw(server.root, "\r\n".join([*lines, *more, "", ""]).encode() + sent)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            assert ODD_ANSWER in answer
            received = api.requests[-1]
            assert (received.method, received.path, received.body) == (method, target, body)
            assert headers.items() <= received.headers.items()
            assert received.headers["authorization"] == "Bearer sk-upstream"
        await client.aclose()


ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "json": (200, {"content-type": "application/json; charset=utf-8"}, b'{ "a":1.0}\n'),
    "events with comments, ids and pauses": (
        200,
        {"content-type": "text/event-stream"},
        b": hi\r\nid: 1\rretry: 5\ndata: x\n\ndata: no end",
    ),
    "sound": (200, {"content-type": "audio/mpeg"}, os.urandom(50_000)),
    "compressed": (200, {"content-type": "application/json", "content-encoding": "gzip"}, gzip.compress(b'{"id":"x"}')),
    "compressed in an odd way": (
        200,
        {"content-type": "application/json", "content-encoding": "br, zstd"},
        os.urandom(100),
    ),
    "a part": (206, {"content-type": "a/b", "content-range": "bytes 1-3/9", "accept-ranges": "bytes"}, b"abc"),
    "created": (201, {"content-type": "application/json", "etag": '"e"', "last-modified": "x"}, b"{}"),
    "accepted": (202, {"content-type": "text/plain"}, b"later"),
    "an error that is not json": (500, {"content-type": "text/plain"}, b"broken"),
    "a conflict": (409, {"content-type": "application/json"}, b'{"error": {"message": "x"}}'),
    "no content type": (200, {"content-type": ""}, b"abc"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_arrives_as_it_was_sent(tmp_path: Path, name: str) -> None:
    """Status, headers of meaning and body, with a length or in chunks."""
    status, headers, body = ANSWERS[name]

    async def answer(request: web.Request, _: bytes) -> web.StreamResponse:
        if "chunked" not in request.query:
            return web.Response(status=status, headers=headers, body=body)
        response = web.StreamResponse(status=status, headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        for at in range(0, len(body), 5_000):
            await response.write(body[at : at + 5_000])
        return response

    async with front(tmp_path, answer) as (_, _, client, _):
        for path in ("/v1/things", "/v1/things?chunked"):
            async with client.stream("GET", path) as response:
                got = b"".join([piece async for piece in response.aiter_raw()])
            assert (response.status_code, got) == (status, body)
            for key, value in headers.items():
                assert value == "" or response.headers[key] == value, key


@pytest.mark.parametrize(
    ("status", "expected"), [(204, 204), (304, 304), (301, 502), (307, 502), (100, 502), (999, 502)]
)
async def test_an_answer_without_a_body_has_none(tmp_path: Path, status: int, expected: int) -> None:
    """A redirect is never followed: it would carry our key to another place."""
    where = {"location": "http://127.0.0.1:9/steal", "etag": '"x"'}

    async def answer(request: web.Request, _: bytes) -> web.StreamResponse:
        assert request.transport is not None
        if status in {100, 999}:
            request.transport.write(b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n")
            request.transport.close()
        return web.Response(status=status if status > 100 else 200, headers=where)

    async with front(tmp_path, answer) as (api, _, client, _):
        response = await client.get("/v1/things")
        assert response.status_code == expected
        assert "location" not in response.headers
        assert len(api.requests) == 1
        if expected < 400:
            assert (response.content, response.headers["etag"]) == (b"", '"x"')


async def test_a_head_request_gets_the_head(tmp_path: Path) -> None:
    """With the length that a GET would have, and no body."""
    async with front(tmp_path, answer_with(b"12345", content_type="audio/wav")) as (api, _, client, _):
        response = await client.head("/v1/things/1/content")
        assert (response.status_code, response.content) == (200, b"")
        assert (response.headers["content-length"], response.headers["content-type"]) == ("5", "audio/wav")
        assert api.requests[-1].method == "HEAD"
        assert (await client.get("/v1/things/1/content")).content == b"12345"


async def test_headers_of_an_upstream_cannot_change_this_origin(tmp_path: Path) -> None:
    """No cookie, no policy, no permission for other origins; a page of the upstream runs in no context of this server."""
    hostile = {
        "set-cookie": "antiphon_session=x; path=/",
        "strict-transport-security": "max-age=1",
        "access-control-allow-origin": "*",
        "access-control-allow-credentials": "true",
        "content-security-policy": "default-src *",
        "clear-site-data": '"*"',
        "alt-svc": 'h3=":1"',
        "refresh": "0; url=http://evil.example",
        "link": "<http://evil.example>; rel=preload",
        "service-worker-allowed": "/",
        "www-authenticate": "Basic",
        "x-request-id": "theirs",
        "openai-organization": "theirs",
        "server": "theirs",
    }
    body = b"<script>alert(1)</script>"
    for status in (200, 400):
        async with front(tmp_path, answer_with(body, status, content_type="text/html", **hostile)) as (_, _, client, _):
            response = await client.get("/v1/things")
            assert response.content == body
            for name, value in hostile.items():
                assert response.headers.get(name) != value, name
            assert response.headers["content-security-policy"] == "sandbox; default-src 'none'"
            assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "head",
    [
        "content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "content-length: +3\r\n\r\nabc",
        "content-length: 3,3\r\n\r\nabc",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "x\x00y: 1\r\ncontent-length: 0\r\n\r\n",
        "x : 1\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_a_request_with_two_readings_is_not_sent_on(tmp_path: Path, head: str) -> None:
    """What two servers may take for different requests is refused by the first."""
    async with front(tmp_path) as (api, server, _, _):
        request = f"POST /v1/things HTTP/1.1\r\nhost: HOST\r\nconnection: close\r\n{head}".encode("latin-1")
        answer = await raw(server.root, request)
        assert b" 200 " not in answer.split(b"\r\n")[0]
        assert not api.requests


async def test_headers_of_the_connection_and_of_this_server_stay_here(tmp_path: Path) -> None:
    """Also those that the client lists as the connection's; one that is sent twice arrives as one."""
    async with front(tmp_path) as (api, server, _, _):
        dropped = {
            "authorization": "Bearer sk-mine",
            "api-key": "sk-mine",
            "x-api-key": "sk-mine",
            "cookie": "antiphon_session=sk-mine",
            "openai-organization": "org-mine",
            "proxy-authorization": "Basic sk-mine",
            "te": "trailers",
            "x-listed": "1",
            "x-antiphon-cache": "on",
            "keep-alive": "timeout=5",
            "referer": "http://127.0.0.1/console?sk-mine",
        }
        lines = [f"{name}: {value}" for name, value in dropped.items()]
        request = "\r\n".join(
            [
                "GET /v1/things HTTP/1.1",
                "host: HOST",
                "connection: close, X-Listed",
                *lines,
                "x-kept: a",
                "X-Kept: b",
                "",
                "",
            ]
        )
        assert b" 200 " in (await raw(server.root, request.encode())).split(b"\r\n")[0]
        received = api.requests[-1].headers
        assert received["x-kept"] == "a, b"
        assert not (dropped.keys() - {"authorization"}) & received.keys()
        assert "sk-mine" not in str(received)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/%252e%252e/admin",
        "/v1/%25252e%25252e/admin",
        "/v1/a/..;/..;/admin",
        "/v1/a/.%2e/admin",
        "/v1/a%2fb",
        "/v1/a%252f..%252fb",
        "/v1/a%5c..%5cb",
        "/v1/./a",
    ],
)
async def test_no_spelling_of_a_path_leaves_the_api(tmp_path: Path, path: str) -> None:
    """However often it is encoded: the upstream may decode it again."""
    async with front(tmp_path) as (api, server, _, _):
        answer = await raw(server.root, f"GET {path} HTTP/1.1\r\nhost: HOST\r\nconnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert not api.requests


@pytest.mark.parametrize("upstream", ["http://evil.example", "//evil", "api@evil", "API", "api,api", "../api", ""])
async def test_a_header_names_only_upstreams_of_the_settings(tmp_path: Path, upstream: str) -> None:
    """Never an address."""
    async with front(tmp_path) as (api, _, client, _):
        refused = await client.get("/v1/things", headers={"x-antiphon-upstream": upstream})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_upstream")
        assert not api.requests


async def test_another_keys_object_is_found_however_it_is_named(tmp_path: Path) -> None:
    """Encoded in the path, in the query, deep in a body, or with escapes; and what it is part of stays its owner's."""
    alice = {"authorization": f"Bearer {new_key(tmp_path, Principal(name='alice'))}"}
    bob = {"authorization": f"Bearer {new_key(tmp_path, Principal(name='bob'))}"}
    many = ", ".join(f'"x-{number:06d}"' for number in range(3000))
    async with front(tmp_path) as (api, _, client, _):
        assert (await client.post("/v1/things", json={"model": "m"}, headers=alice)).status_code == 200
        num = len(api.requests)
        json = {"content-type": "application/json"}
        refused = [
            await client.get("/v1/things/thing%2D123456", headers=bob),
            await client.get("/v1/%74hings/%74hing-123456/parts", headers=bob),
            await client.get("/v1/things?after=thing%2D123456", headers=bob),
            await client.delete("/v1/stores/other-12345/things/thing-123456", headers=bob),
            await client.post("/v1/jobs", json={"a": [{"b": {"c": ["thing-123456"]}}]}, headers=bob),
            await client.post("/v1/jobs", content=b'{"a": "thing\\u002d123456"}', headers=bob | json),
            await client.post("/v1/jobs", content=f'{{"a": [{many}, "thing-123456"]}}'.encode(), headers=bob | json),
        ]
        assert [(each.status_code, each.json()["error"]["code"]) for each in refused] == [(404, "not_found")] * 7
        assert len(api.requests) == num
        # Deleted from a place where it was listed, it still exists, and is still hers.
        assert (await client.delete("/v1/stores/other-12345/things/thing-123456", headers=alice)).status_code == 200
        assert (await client.delete("/v1/stores/store-1234567/things/thing-123456", headers=bob)).status_code == 404


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/things?model=dear&model=m", {"json": {}}),
        ("/v1/things?model=dear", {"json": {"model": "m"}}),
        ("/v1/things?model=m", {"json": {"model": "dear"}}),
        ("/v1/things?m%6fdel=dear", {"json": {"model": "m"}}),
        (
            "/v1/things",
            {"content": b'{"model": "dear", "model": "m"}', "headers": {"content-type": "application/json"}},
        ),
        (
            "/v1/things",
            {"content": b'{"mod\\u0065l": "dear", "model": "m"}', "headers": {"content-type": "application/json"}},
        ),
        ("/v1/things", {"files": [("model", (None, "m")), ("model", (None, "dear"))]}),
        ("/v1/things", {"files": [("model", (None, "m")), ("f", ("f", b"x" * 3_000_000)), ("model", (None, "dear"))]}),
    ],
    ids=["query", "query and body", "body and query", "encoded", "json", "escaped", "form", "end of a form"],
)
async def test_a_second_model_does_not_pass_a_keys_limits(tmp_path: Path, path: str, sent: dict[str, Any]) -> None:
    """The upstream might take the one that this server did not check."""
    key = new_key(tmp_path, Principal(name="narrow", models=("m",)))
    arrived: list[bytes] = []

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        arrived.append(body)
        return await odd_answer(request, body)

    async with front(tmp_path, answer, key=key) as (_, _, client, outcomes):
        response = await client.post(path, **sent)
        assert response.status_code in {400, 404}, response.text
        assert response.json()["error"]["param"] in {"model", None}
        assert not arrived
        await until(lambda: len(outcomes) == 1)


async def test_a_compressed_body_is_not_for_a_key_with_certain_models(tmp_path: Path) -> None:
    """The server does not read it, so it does not know the model."""
    key = new_key(tmp_path, Principal(name="narrow", models=("m",)))
    async with front(tmp_path, key=key) as (api, _, client, _):
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        refused = await client.post("/v1/things", content=gzip.compress(b'{"model": "dear"}'), headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_required")
        assert not api.requests


async def test_a_route_renames_the_model_in_a_query(tmp_path: Path) -> None:
    """In a GET, and in a POST whose body names none."""
    route = RouteSettings(model="voice", targets=(TargetSettings(backend="api", model="a b"),))
    async with front(tmp_path, default=None, routes=(route,)) as (api, _, client, _):
        await client.get("/v1/things?x=1&model=voice&y=%2B")
        await client.post("/v1/things?model=voice", json={"a": 1})
        assert [each.path for each in api.requests] == ["/v1/things?x=1&model=a%20b&y=%2B", "/v1/things?model=a%20b"]
        assert api.requests[-1].body == b'{"a":1}'


async def test_a_chunked_body_passes_without_a_length(tmp_path: Path) -> None:
    """It arrives in the same framing, so the upstream never waits for more."""
    async with front(tmp_path) as (api, _, client, _):
        headers = {"content-type": "application/octet-stream"}
        assert (await client.post("/v1/things", content=pieces(), headers=headers)).status_code == 200
        assert api.requests[-1].headers.get("transfer-encoding") == "chunked"
        assert "content-length" not in api.requests[-1].headers
        assert len(api.requests[-1].body) == 50_000
        assert isinstance(client, httpx.AsyncClient)
