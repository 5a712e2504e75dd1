"""Seals what a client keeps for the server: the thinking of a model, for the client to send back unread.

Fernet (AES-CBC with HMAC-SHA256, from the package ``cryptography``), under a key derived from the server's secret: servers
that share the secret open each other's seals, and nobody else does.
"""

import base64

from cryptography.fernet import Fernet, InvalidToken

from antiphon.protocol import problems


class Sealer:
    """``key`` has 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def seal(self, text: str) -> str:
        """Return a token that only this server reads; it differs each time."""
        return self._fernet.encrypt(text.encode()).decode()

    def unseal(self, token: str) -> str:
        """Return the sealed text. Raises ``ApiError`` 400 for what was sealed elsewhere, or changed."""
        try:
            return self._fernet.decrypt(token.encode(errors="replace")).decode()
        except InvalidToken:
            raise problems.bad_request(
                "The encrypted content could not be verified: this server did not seal it. Send the item without "
                "'encrypted_content', or continue where it was made.",
                "input",
                "invalid_encrypted_content",
            ) from None
