"""The key: is there one, is it whole, and is it for this API?"""

from __future__ import annotations

from antiphon.toolkit.clients import Endpoint
from antiphon.toolkit.doctor.findings import Finding

CHECK = "key"
_FOREIGN = {
    "sk-ant-": "Anthropic",
    "gsk_": "Groq",
    "xai-": "xAI",
    "hf_": "Hugging Face",
    "AIza": "Google",
    "ghp_": "GitHub",
    "github_pat_": "GitHub",
    "r8_": "Replicate",
    "AKIA": "AWS",
}
_PLACEHOLDERS = ("your-api-key", "your_api_key", "sk-...", "<", "xxx", "changeme", "insert")
_SHORTEST_OPENAI_KEY = 40


def check_key(key: str | None, endpoint: Endpoint) -> Finding:
    """Judge a key by its looks; whether the server takes it is another check."""
    if key is None or not key.strip():
        return _missing(key, endpoint)
    for seen, what in ((key != key.strip(), "white space around it"), (key.strip()[0] in "'\"", "quotes around it")):
        if seen:
            return _problem(
                f"The key has {what}: {_masked(key)!r}", "export OPENAI_API_KEY={}".format(key.strip(" \t\r\n'\""))
            )
    if any(char.isspace() for char in key):
        return _problem("The key has white space inside; it was probably cut by a line break", _COPY)
    if key.lower().startswith("bearer"):
        return _problem(
            'The key begins with "Bearer"; the client adds that itself',
            "export OPENAI_API_KEY=${OPENAI_API_KEY#Bearer }",
        )
    if not key.isascii():
        return _problem(f"The key has characters that no header can carry: {_masked(key)!r}", _COPY)
    return _check_kind(key, endpoint)


_COPY = "copy the key again, as one line, and: export OPENAI_API_KEY=..."


def _check_kind(key: str, endpoint: Endpoint) -> Finding:
    if not endpoint.is_openai:
        return Finding(CHECK, "ok", f"A key is set: {_masked(key)}")
    maker = next((name for prefix, name in _FOREIGN.items() if key.startswith(prefix)), None)
    if maker is not None:
        return _problem(
            f"The key is one of {maker}, and the URL is OpenAI's", "export OPENAI_API_KEY=sk-...   # a key of OpenAI's"
        )
    if key.startswith("sess-"):
        return _problem(
            "This is a session token of the web site, not an API key", "make a key on the API keys page of your account"
        )
    if any(sign in key.lower() for sign in _PLACEHOLDERS) or len(key) < _SHORTEST_OPENAI_KEY:
        return _problem(f"The key looks like an example or a part of one: {_masked(key)}", _COPY)
    if not key.startswith("sk-"):
        return Finding(CHECK, "warning", f"OpenAI's keys begin with sk-, this one with {key[:3]!r}", _COPY)
    return Finding(CHECK, "ok", f"A key of OpenAI's kind is set: {_masked(key)}")


def _missing(key: str | None, endpoint: Endpoint) -> Finding:
    what = "OPENAI_API_KEY is not set" if key is None else "OPENAI_API_KEY is empty"
    if endpoint.is_openai:
        return _problem(what, "export OPENAI_API_KEY=sk-...   (or use a local model: antiphon serve)")
    return _problem(f"{what}; the client wants one, though a local server may take any", "export OPENAI_API_KEY=local")


def _problem(message: str, fix: str) -> Finding:
    return Finding(CHECK, "problem", message, fix)


def _masked(key: str) -> str:
    """Show enough to tell keys apart, and no more."""
    bare = key.strip(" \t\r\n'\"")
    return f"{bare[:3]}...{bare[-4:]}" if len(bare) > 12 else "***"  # noqa: PLR2004 # shorter ones would be shown whole
