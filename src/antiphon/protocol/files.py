"""What may be said of a file: purposes, expiry, names; and the tables of the requests for files and uploads."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError
from antiphon.protocol.fields import Enumeration, Integer, String
from antiphon.protocol.shapes import Array, Object

Json = dict[str, Any]
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""What a client may upload a file for; ``batch_output`` is for the server's own files."""
_LINES_OF_JSON = {"batch": "Batch API", "fine-tune": "Fine-tuning API"}
_DAY_S = 86_400
_BATCH_EXPIRES_AFTER_S = 30 * _DAY_S
MAX_BATCH_FILE_BYTES = 200 * 1000 * 1000
MAX_FILENAME = 255

expires_after = Object(
    {
        "anchor": Enumeration(("created_at",)),
        "seconds": Integer(minimum=3600, maximum=30 * _DAY_S),
    },
    required=("anchor", "seconds"),
)
_purpose = Enumeration(PURPOSES)
file_form = Object({"purpose": _purpose, "expires_after": expires_after}, required=("purpose",))
upload_request = Object(
    {
        "filename": String(min_length=1, max_length=MAX_FILENAME),
        "purpose": _purpose,
        "bytes": Integer(minimum=0),
        "mime_type": String(min_length=1, max_length=MAX_FILENAME),
        "expires_after": expires_after,
    },
    required=("filename", "purpose", "bytes", "mime_type"),
)
complete_upload_request = Object(
    {
        "part_ids": Array(String(), "strings", min_length=1, max_length=10_000),
        "md5": String(pattern="^[0-9a-fA-F]{32}$", nullable=True),
    },
    required=("part_ids",),
)


class FileForm(msgspec.Struct, frozen=True):
    """The fields of an upload. ``expires_after_s`` None: the file is kept until it is deleted."""

    purpose: str
    expires_after_s: int | None


def parse_file_form(fields: Mapping[str, str]) -> FileForm:
    """Read the form's text fields, which say ``expires_after[seconds]`` for a field of an object. ``ApiError`` 400."""
    value: Json = {}
    for name, text in fields.items():
        outer, bracket, inner = name.partition("[")
        if not bracket:
            value[name] = text
        elif outer == "expires_after" and inner in {"anchor]", "seconds]"}:
            inner = inner[:-1]
            is_number = inner == "seconds" and re.fullmatch(r"-?\d{1,18}", text, re.ASCII)
            value.setdefault(outer, {})[inner] = int(text) if is_number else text
        else:
            raise problems.unknown(name, ())
    file_form.check(value, "")
    return FileForm(value["purpose"], expiry_s(value["purpose"], value.get("expires_after")))


def expiry_s(purpose: str, given: Json | None) -> int | None:
    """Return after how many seconds a file ends: as asked, 30 days for the input of a batch, None for any other."""
    if given is not None:
        return given["seconds"]
    return _BATCH_EXPIRES_AFTER_S if purpose == "batch" else None


def check_file_name(filename: str, purpose: str) -> None:
    """Raise ``ApiError`` 400 for a name that does not fit the purpose."""
    api = _LINES_OF_JSON.get(purpose)
    if api is not None and not filename.lower().endswith(".jsonl"):
        raise problems.bad_request(f"Invalid file format for {api}. Must be .jsonl", "file", "invalid_file_format")


def check_batch_size(purpose: str, num_bytes: int) -> None:
    """Raise ``ApiError`` 413 for the input of a batch past OpenAI's bound, and 400 for an empty file."""
    if num_bytes == 0:
        raise problems.bad_request("The file is empty.", "file", "empty_file")
    if purpose == "batch" and num_bytes > MAX_BATCH_FILE_BYTES:
        raise ApiError(
            413,
            f"The input file of a batch may have at most {MAX_BATCH_FILE_BYTES:,} bytes.",
            param="file",
            code="file_too_large",
        )


def safe_filename(given: str) -> str:
    """Return the last part of a client's path, without control characters (RFC 7578, section 4.2).

    It never names anything on the server's disk; but a program may save a download under it. ``ApiError`` 400 for a name
    that nothing is left of, or that is longer than 255 characters.
    """
    last = re.split(r"[/\\]", given)[-1]
    name = "".join(character for character in last if character.isprintable()).strip()
    if not name.strip("."):
        raise problems.bad_request(
            f"Invalid 'filename': {given[:MAX_FILENAME]!r} names no file.", "file", "invalid_value"
        )
    if len(name) > MAX_FILENAME:
        raise problems.wrong_length("filename", "string", MAX_FILENAME, len(name), above=True)
    return name
