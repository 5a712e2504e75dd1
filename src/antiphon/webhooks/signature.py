"""The signature of a webhook, after the Standard Webhooks specification, which OpenAI's client checks. Pure."""

import base64
import binascii
import hashlib
import hmac

from antiphon.errors import ConfigError

_PREFIX = "whsec_"


def signing_key(secret: str) -> bytes:
    """Return the bytes that sign; ``ConfigError`` where the rest of a ``whsec_`` secret is not Base64."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret[len(_PREFIX) :], validate=True)
    except binascii.Error:
        raise ConfigError("[webhooks] a secret that begins with whsec_ must go on in Base64") from None


def headers_of(event_id: str, timestamp: int, body: bytes, key: bytes) -> dict[str, str]:
    """Return the headers that let the receiver check who sent ``body``, and when. ``timestamp`` is in Unix seconds."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
