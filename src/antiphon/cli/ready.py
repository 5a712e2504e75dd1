"""What ``antiphon serve`` prints once it is ready: how each model runs, and what a client needs."""

import os
import re
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from antiphon.engine import Engine

_FAILED = re.compile(r"^started after|^not measured|left out, ")
_RUNTIMES = {"openvino": "OpenVINO", "llama": "llama.cpp"}


def print_ready(console: Console, url: str, engines: Sequence[Engine], *, is_open: bool, has_console: bool) -> None:
    """Print one line for each engine, what could be better, and the address. ``is_open``: no key exists yet.

    The two ``export`` lines go to standard output, everything else to ``console``.
    """
    for engine in engines:
        name, settings = engine.settings.model_path.stem, engine.info.settings
        console.print(f"[dim]{escape(f'{name}: {engine_line(settings)}')}[/dim]")
        for remark in remarks(settings):
            style = "yellow" if _FAILED.search(remark) else "dim"
            console.print(f"[{style}]{escape(f'{name}: {remark}')}[/{style}]")
    if engines:
        console.print("[dim]Why these runtimes and weight formats: `antiphon engine show`[/dim]")
    if gain := native_gain([engine.info.settings for engine in engines]):
        console.print(f"[dim]{escape(gain)}[/dim]")
    if is_open:
        console.print("[dim]No key exists yet, so any key is accepted; only this machine can connect.[/dim]")
    console.print(f"[bold green]Ready[/bold green] at {url} - a client needs (Ctrl-C ends, process {os.getpid()}):")
    key = "local" if is_open else "YOUR_KEY"
    print(f"  export OPENAI_BASE_URL={url}\n  export OPENAI_API_KEY={key}", flush=True)
    if has_console:
        sign_in = "" if is_open else " (sign in with a key made with `antiphon keys create --admin`)"
        console.print(f"In a browser: [bold]{url.removesuffix('/v1')}/console[/bold]{sign_in}")


def engine_line(settings: Mapping[str, str]) -> str:
    """Return in one line how a model runs. The rest of its ``settings`` is on the console's page about models."""
    runtime = _RUNTIMES.get(settings["runtime"], settings["runtime"])
    if settings["runtime"] == "llama":
        runtime = f"{runtime} ({settings['library']})"
    weights = (
        "the file's weights" if settings["weight_format"] == "as-is" else f"weights as {settings['weight_format']}"
    )
    draft = f", drafts by {settings['draft_model']}" if settings.get("draft_model") else ""
    return (
        f"{runtime}, {weights}, context of {int(settings['context_size']):,} tokens, "
        f"{int(settings['cells']):,} KV cells, {settings['num_sequences']} sequences, {settings['threads']} threads{draft}"
    )


def remarks(settings: Mapping[str, str]) -> list[str]:
    """Return what failed on the way to this, and why it is so where no measurement decided."""
    failed = settings.get("started_after", "")
    said = [failed and f"started after {failed}", settings.get("notes", ""), settings.get("weight_format_remarks", "")]
    return [words for words in said if words and words != "as the settings say"]


def native_gain(engines: Sequence[Mapping[str, str]]) -> str:
    """Return in one line what a native build would bring here, empty if there is one or it would bring nothing."""
    by_llama = [settings for settings in engines if settings.get("runtime") == "llama"]
    unused = next((settings.get("unused_instruction_sets", "") for settings in by_llama), "")
    if not unused:
        return ""
    names = ", ".join(unused.split())
    return (
        f"The prebuilt llama.cpp leaves {names} of this processor unused. One that is compiled here is often faster: "
        "`antiphon engine build` (needs a C++ compiler, takes some minutes)."
    )
