"""The way to the server: its URL, proxies, the name, the connection, TLS."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from antiphon.toolkit.doctor.findings import Finding

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SERVE_PORT = 8787
"""Where `antiphon serve` listens by default."""
_PORTS = {"http": 80, "https": 443}


def check_url(url: str, environ: Mapping[str, str] = os.environ) -> Finding:
    """Judge a base URL by its looks."""
    setting = "OPENAI_BASE_URL" if "OPENAI_BASE_URL" in environ else "base_url"
    parts = urlsplit(url.strip())
    bare = url.strip().rstrip("/")
    if url != url.strip():
        return _problem(f"{setting} has white space around it: {url!r}", f"export OPENAI_BASE_URL={bare}")
    if parts.scheme not in _PORTS or not parts.hostname:
        return _problem(f"{setting} is not an http(s) URL: {url!r}", "export OPENAI_BASE_URL=http://127.0.0.1:8787/v1")
    for tail in ("/chat/completions", "/completions", "/embeddings", "/models"):
        if bare.endswith(tail):
            return _problem(
                f"{setting} names one call; the client adds {tail} itself",
                f"export OPENAI_BASE_URL={bare.removesuffix(tail)}",
            )
    if parts.hostname in {"0.0.0.0", "::"}:  # noqa: S104 # what a user typed
        fixed = bare.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")  # noqa: S104
        return _problem(
            f"{parts.hostname} is where a server listens, not where one calls it", f"export OPENAI_BASE_URL={fixed}"
        )
    if not parts.path.strip("/"):
        return Finding(
            "url",
            "warning",
            f"{setting} has no path; most servers answer below /v1",
            f"export OPENAI_BASE_URL={bare}/v1",
        )
    return Finding("url", "ok", url)


def check_proxy(url: str) -> Finding:
    """Tell which proxy a call goes through."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    host = parts.hostname or ""
    if not proxy or proxy_bypass(host):
        return Finding("proxy", "ok", "none is used for this URL")
    if host in LOOPBACK:
        return Finding(
            "proxy",
            "problem",
            f"Calls to this machine go through the proxy {proxy}",
            "export NO_PROXY=127.0.0.1,localhost,::1",
        )
    return Finding("proxy", "ok", f"calls go through {proxy}")


async def check_connection(url: str, timeout_s: float) -> list[Finding]:
    """Look the host up, connect to it, and for https shake hands; stops at the first failure."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return [
            Finding(
                "dns",
                "problem",
                f"The name {host!r} is not found: {error.strerror}",
                f"getent hosts {host}   # check the spelling and the network",
            )
        ]
    addresses = sorted({str(entry[4][0]) for entry in found})
    resolved = Finding("dns", "ok", f"{host} is {', '.join(addresses)}")
    return [resolved, await _connect(parts, host, port, timeout_s)]


async def _connect(parts: SplitResult, host: str, port: int, timeout_s: float) -> Finding:
    is_secure = parts.scheme == "https"
    check = "tls" if is_secure else "connection"
    context = ssl.create_default_context() if is_secure else None
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=host if is_secure else None
            )
    except ssl.SSLCertVerificationError as error:
        fix = "export SSL_CERT_FILE=/path/to/your-company-ca.pem   # if a proxy of your network signs certificates"
        return Finding(check, "problem", f"The certificate of {host} is not trusted: {error.verify_message}", fix)
    except ssl.SSLError as error:
        fix = (
            f"export OPENAI_BASE_URL={parts.geturl().replace('https:', 'http:', 1)}   # if the server speaks plain http"
        )
        return Finding(check, "problem", f"{host}:{port} does not speak TLS: {error.reason}", fix)
    except TimeoutError:
        return Finding(
            check,
            "problem",
            f"{host}:{port} does not answer within {timeout_s:g} s",
            "check firewall, VPN and proxy (HTTPS_PROXY)",
        )
    except OSError as error:
        fix = f"check that a server listens there: curl -v {parts.geturl()}/models"
        if host in LOOPBACK:
            fix = "antiphon serve" if port == SERVE_PORT else f"antiphon serve --port {port}"
        # What asyncio says of it repeats the address.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        return Finding(check, "problem", f"Nothing listens at {host}:{port}: {reason}", fix)
    writer.close()
    return Finding(check, "ok", f"{host}:{port} accepts {'TLS' if is_secure else 'connections'}")


def _problem(message: str, fix: str) -> Finding:
    return Finding("url", "problem", message, fix)
