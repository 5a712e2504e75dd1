"""``antiphon serve``: the API on this machine."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import uvloop
from cyclopts import Parameter
from rich.console import Console

from antiphon import __version__
from antiphon.cli.progress import download_progress
from antiphon.server.assembly import Assembly
from antiphon.server.configuration import Configuration, load_configuration
from antiphon.server.logs import configure_logs
from antiphon.server.run import address_of, bind, serve as run_server


def serve(
    *,
    host: Annotated[str | None, Parameter(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, Parameter(help="Port to listen on; 0 takes a free one. [default: 8787]")] = None,
    model: Annotated[
        str | None, Parameter(help="Chat model: a catalogue name, a .gguf file, hf:org/repo/file.gguf, or none.")
    ] = None,
    embedding_model: Annotated[str | None, Parameter(help="Embedding model, named in the same ways.")] = None,
    context_size: Annotated[int | None, Parameter(help="Tokens of context. [default: the model's own]")] = None,
    threads: Annotated[int | None, Parameter(help="Threads per engine. [default: as measured best]")] = None,
    gpu_layers: Annotated[int | None, Parameter(help="Layers kept on the GPU.")] = None,
    config: Annotated[Path | None, Parameter(help="TOML file with all settings; see docs/configuration.md.")] = None,
) -> None:
    """Serve the OpenAI API: fetch the models if needed, load them, answer until Ctrl-C."""
    options: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port},
        "models": {"chat": model, "embedding": embedding_model},
        "engine": {"context_size": context_size, "threads": threads, "gpu_layers": gpu_layers},
    }
    configuration = load_configuration(file=config, options=options)
    configure_logs(configuration.server.log_level, configuration.server.log_format)
    uvloop.run(_serve(configuration))


async def _serve(configuration: Configuration) -> None:
    console = Console(stderr=True)
    listener = bind(configuration.server)
    url = address_of(listener)
    with download_progress(console) as progress:
        assembly = await asyncio.to_thread(Assembly.prepare, configuration, progress)
    service = await assembly.open()
    try:

        async def start() -> None:
            console.print(f"[dim]antiphon {__version__}: loading {assembly.describe_models()}[/dim]")
            await assembly.start()
            for line in assembly.describe_choices():
                console.print(f"[dim]{line}[/dim]", highlight=False)
            _print_ready(console, url, assembly.note_on_keys())

        await run_server(service, listener, start)
    finally:
        await assembly.aclose()


def _print_ready(console: Console, url: str, note: str) -> None:
    console.print(f"[dim]{note}[/dim]", highlight=False)
    console.print(f"[bold green]Ready[/bold green] at {url}", highlight=False, soft_wrap=True)
    print(f"export OPENAI_BASE_URL={url}\nexport OPENAI_API_KEY=local", flush=True)
