"""The command line: ``antiphon COMMAND``."""

from antiphon.cli.root import main

__all__ = ["main"]
