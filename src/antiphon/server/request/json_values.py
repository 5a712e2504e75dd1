"""Bounds the number of values in JSON text without decoding it: what a decoder costs grows with that number.

Pure. It reads a piece at a time, so that a thread which counts gives up the interpreter lock between pieces.
"""

MAX_VALUES = 400_000
"""Values in one body: above 300,000 token ids, the most that OpenAI takes in one embedding request."""

_PIECE_BYTES = 65_536


def has_more_values(body: bytes, limit: int) -> bool:
    """Whether JSON text has more than ``limit`` values and names; text that is not JSON gets some answer.

    Each value but the first follows a comma, a colon or an opening bracket.
    """
    # An upper bound, as it also counts what is inside strings: for nearly every body it is enough.
    if sum(body.count(mark) for mark in (b",", b":", b"[", b"{")) <= limit:
        return False
    num_values = 0
    is_in_string = False
    carried = b""
    for start in range(0, len(body), _PIECE_BYTES):
        piece = carried + body[start : start + _PIECE_BYTES]
        # A backslash at the end belongs to the first character of the next piece.
        num_backslashes = len(piece) - len(piece.rstrip(b"\\"))
        carried = b"\\" if num_backslashes % 2 else b""
        piece = piece[: len(piece) - len(carried)]
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[1 if is_in_string else 0 :: 2])
        num_values += sum(outside.count(mark) for mark in (b",", b":", b"[", b"{"))
        is_in_string ^= len(parts) % 2 == 0
        if num_values > limit:
            return True
    return False
