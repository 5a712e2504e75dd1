"""What the engine reads from llama.cpp's log."""

from antiphon.engine.model.native_log import NativeLog


def test_keeps_the_latest_warnings_and_sums_memory_by_kind() -> None:
    """Lines below a warning are dropped, devices are added up, and ``clear`` forgets both."""
    log = NativeLog()
    assert log.allocated_bytes("KV") is None
    log.take(2, b"llama_kv_cache: CPU KV buffer size =     1.50 MiB\n")
    log.take(2, b"llama_kv_cache: GPU0 KV buffer size =     2.50 MiB\n")
    log.take(3, b"a warning\n")
    for number in range(60):
        log.take(4, b"error %d \xff\n" % number)
    assert log.allocated_bytes("KV") == 4 * 2**20
    assert log.allocated_bytes("RS") == 0
    lines = log.warnings().splitlines()
    assert lines[-1] == "error 59 \N{REPLACEMENT CHARACTER}"
    assert len(lines) == 40
    log.clear()
    assert (log.warnings(), log.allocated_bytes("KV")) == ("", None)
