"""A real shared library around the prebuilt llama.cpp that dies in one function, compiled with the C compiler that is here."""

import shutil
import subprocess
from pathlib import Path

import msgspec

from antiphon.engine.model.native import find, generated
from antiphon.engine.model.native.processor import processor_key

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct batch { int32_t n; void *token, *embd, *pos, *n_seq, *seq, *logits; };
struct parameters { char bytes[%(parameter_bytes)d]; };
static int is_self_test;

static void die(void) { %(death)s; }

#ifdef DIE_AT_LOAD
__attribute__((constructor)) static void loaded(void) { die(); }
#endif

void *llama_model_load_from_file(const char *path, struct parameters given) {
    void *(*real)(const char *, struct parameters) = dlsym(RTLD_NEXT, "llama_model_load_from_file");
    is_self_test = strstr(path, "self-test") != NULL;
#ifdef DIE_WITH_EXTRA_BUFFERS
    if (given.bytes[%(extra_buffers_offset)d]) die();
#endif
#ifdef DIE_AT_MODEL
    if (!is_self_test) die();
#endif
    return real(path, given);
}

int32_t llama_decode(void *context, struct batch given) {
    int32_t (*real)(void *, struct batch) = dlsym(RTLD_NEXT, "llama_decode");
#ifdef DIE_IN_SELF_TEST
    if (is_self_test) die();
#endif
#ifdef DIE_AT_DECODE
    if (!is_self_test) die();
#endif
    return real(context, given);
}
"""

DEATHS = {
    "SIGILL": "__builtin_trap()",
    "SIGSEGV": "raise(SIGSEGV)",
    "SIGKILL": "raise(SIGKILL)",
    "exit": "_exit(7)",
}


def native_build(directory: Path, real: Path, where: str, death: str) -> Path:
    """Compile a stub as the native build of ``directory``, dying at ``where`` (the macro ``DIE_...``); return its file."""
    import ctypes  # noqa: PLC0415 - only for two numbers

    folder = directory / "stub"
    folder.mkdir(parents=True)
    (folder / find.MANIFEST).write_bytes(msgspec.json.encode(find.Build("stub", processor_key(), "cc", "")))
    parameters = generated.llama_model_params
    source = folder / "stub.c"
    source.write_text(
        _SOURCE
        % {
            "parameter_bytes": ctypes.sizeof(parameters),
            "extra_buffers_offset": parameters.use_extra_bufts.offset,
            "death": DEATHS[death],
        }
    )
    target = folder / find.library_names()[0]
    assert COMPILER is not None
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-O1", f"-DDIE_{where}", "-o", str(target), str(source),
         "-Wl,--no-as-needed", str(real), f"-Wl,-rpath,{real.parent}", "-ldl"],
        check=True, capture_output=True,
    )  # fmt: skip
    return target
