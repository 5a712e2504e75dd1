"""What a machine has to give."""

from pathlib import Path

from antiphon.engine.machine import free_memory, left_in_container


def test_files_that_nobody_reads_leave_room_in_a_container(tmp_path: Path) -> None:
    """The limit less what is used; what is only kept of files is given back when it is wanted."""
    assert left_in_container(tmp_path) is None
    for name, text in (("max", "1000\n"), ("current", "900\n"), ("stat", "anon 300\ninactive_file 500\nslab 1\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert left_in_container(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert left_in_container(tmp_path) is None


def test_some_memory_is_free() -> None:
    """This machine has some."""
    assert free_memory() > 0
