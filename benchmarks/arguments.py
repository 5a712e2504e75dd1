"""Types of command-line arguments that refuse values with which nothing can be measured."""

import argparse
from pathlib import Path


def at_least_one(text: str) -> int:
    """Return a count."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def existing_folder(text: str) -> Path:
    """Return the path of an existing folder."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return path.absolute()


def existing_file(text: str) -> Path:
    """Return the path of an existing file."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path
