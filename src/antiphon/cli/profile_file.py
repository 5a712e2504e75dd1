"""A settings file that belongs to us in the folder of another program: written, recognised and removed without a trace."""

import hashlib
import os
from pathlib import Path

from antiphon.errors import AntiphonError

_MARK = "# Written by `{command}`, removed by `{command} --undo`. Checksum: "


class ProfileFile:
    """``path`` is the file, ``command`` the command that writes it. The first line says so and has a checksum of the rest.

    A file of that name that the user wrote is renamed, and put back by ``undo``. One of ours that the user changed is
    kept too.
    """

    def __init__(self, path: Path, command: str) -> None:
        self.path = path
        self._mark = _MARK.format(command=command)
        self._backup = path.with_name(f"{path.name}.before-antiphon")

    def write(self, content: str) -> None:
        """Write the file. Raises ``AntiphonError`` if the user's file cannot be kept because an older one is kept already."""
        existing = self._read()
        if existing is not None and not self._is_ours(existing):
            if self._backup.exists():
                raise AntiphonError(
                    f"{self.path} was changed, and {self._backup} has an earlier file of yours",
                    hint="move one of the two away",
                )
            self.path.rename(self._backup)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = f"{self._mark}{_checksum(content)}\n{content}"
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(self.path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def undo(self) -> str:
        """Remove the file, and put back what was there before it; return what was done, for people."""
        existing = self._read()
        if existing is None:
            return f"{self.path} is not there, nothing to remove"
        if not self._is_ours(existing):
            return f"{self.path} was written or changed by you, so it stays"
        self.path.unlink()
        if self._backup.exists():
            self._backup.rename(self.path)
            return f"removed {self.path}, and put back the file that was there before"
        return f"removed {self.path}"

    def _read(self) -> str | None:
        try:
            return self.path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return None

    def _is_ours(self, text: str) -> bool:
        """Whether the text is exactly what ``write`` wrote."""
        first, _, rest = text.partition("\n")
        return first == f"{self._mark}{_checksum(rest)}"


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
