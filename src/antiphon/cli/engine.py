"""``antiphon engine``: the libraries of llama.cpp on this machine, and a native build."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from antiphon.cli.output import print_json
from antiphon.cli.tables import print_table
from antiphon.engine.model.native.build import build as build_library
from antiphon.engine.model.native.choose import Examined, choose_tested, examine
from antiphon.engine.model.native.compiler import BuildError
from antiphon.engine.model.native.find import find_libraries, selected
from antiphon.engine.model.native.library import Candidate, LibraryRefusedError
from antiphon.engine.model.native.processor import unused_sets
from antiphon.engine.model.native.selftest_model import TYPES
from antiphon.engine.model.openvino.library import version as openvino_version
from antiphon.engine.model.weight_format import measured_choices
from antiphon.engine.settings import library_directory
from antiphon.errors import AntiphonError
from antiphon.server.configuration import load_configuration

app = App(name="engine", help="Show the libraries that compute, or compile one for this processor.")

_FILE_TYPES = {"f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2}
ConfigFile = Annotated[Path | None, Parameter(name="--config", help="TOML file with all settings.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for programs instead of a table.")]


@app.command
def show(
    *,
    again: Annotated[bool, Parameter(negative="", help="Test and measure every library again.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show each library of llama.cpp here, how fast it is and which one is chosen, and what serves each model.

    The runtime and the weight format of a model are measured when it is first served. Libraries that were not tested on this machine yet are tested now, which takes a second each.
    """
    wanted, directory = _settings(config)
    every = find_libraries(directory)
    tested = examine(every, directory, again=again)
    try:
        allowed = selected(every, wanted)
    except LibraryRefusedError as error:
        raise AntiphonError(str(error), hint="Check `library` in [engine].") from error
    chosen = _chosen([one for one in tested if one.candidate in allowed])
    rows = [_row(one, [name for name, best in chosen.items() if best is one]) for one in tested]
    if as_json:
        models = msgspec.to_builtins(measured_choices(_copies(config)))
        print_json(
            {
                "library": wanted,
                "directory": directory,
                "libraries": rows,
                "openvino": openvino_version(),
                "models": models,
            }
        )
        return
    if rows:
        _print_libraries(rows)
    else:
        print("No library of llama.cpp is installed. Install one: pip install 'antiphon[llama]'")
    print(f"\nOpenVINO {openvino_version() or 'is not installed'}")
    for choice in measured_choices(_copies(config)):
        runtime = "OpenVINO" if choice.runtime == "openvino" else "llama.cpp"
        print(f"\n{choice.file}: {choice.type} with {runtime}")
        for line in choice.measured:
            print(f"  {line}")


def _print_libraries(rows: list[dict[str, Any]]) -> None:
    figures = [f"{name} (ms)" for name in TYPES]
    print_table(("library", "chosen for"), figures, [_cells(row) for row in rows])
    for row in rows:
        print(f"\n{row['name']}\n  {row['path']}")
        for label, value in _details(row):
            print(f"  {label}: {value}")


@app.command
def build(
    *,
    jobs: Annotated[int | None, Parameter(help="Compilers that run at once. [default: one for each core]")] = None,
    source: Annotated[Path | None, Parameter(help="The source package of xllamacpp, instead of fetching it.")] = None,
    cmake_option: Annotated[
        list[str] | None, Parameter(help="A further option for CMake, such as -DGGML_CUDA=ON; may be repeated.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Compile llama.cpp for this processor, test it, and compare it with the other libraries here.

    It needs a C++ compiler. Servers that are started afterwards use the build if it is the fastest.
    """
    _, directory = _settings(config)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        with _progress(console) as on_progress:
            built = build_library(directory, on_progress, source=source, jobs=jobs, options=cmake_option or ())
    except BuildError as error:
        raise AntiphonError(str(error), hint=error.hint) from error
    console.print(f"[green]Built[/green]: {escape(str(built.path))}")
    _compare(built, directory)


def _compare(built: Candidate, directory: Path) -> None:
    """Print what the self-test of a new build says."""
    tested = examine(find_libraries(directory), directory)
    result = next(one for one in tested if one.candidate == built)
    if result.result is None:
        raise AntiphonError(result.problem, hint="It is not used. `antiphon engine show` lists the libraries that are.")
    if result.notes:
        print(result.notes)
    for other in tested:
        if other is not result and other.result is not None:
            ratios = [f"{other.result.seconds[name] / result.result.seconds[name]:.1f} ({name})" for name in TYPES]
            print(f"Times as fast as {other.candidate.name} in the self-test: {', '.join(ratios)}")
    print("Restart the server to use it.")


def _settings(config: Path | None) -> tuple[str, Path]:
    """Return which library the settings want, and where native builds and results are kept."""
    configuration = load_configuration(file=config)
    given = configuration.engine
    return given.get("library", "auto"), Path(given.get("library_directory", library_directory(configuration.home)))


def _copies(config: Path | None) -> Path:
    """Return where converted models and measurements of them are kept."""
    copies = load_configuration(file=config).engine_settings("chat", Path()).cache_directory
    assert copies is not None
    return copies


def _chosen(tested: list[Examined]) -> dict[str, Examined]:
    """Return the library that is used for each type of weights."""
    best = {name: choose_tested(tested, _FILE_TYPES[name]) for name in TYPES}
    return {name: one for name, one in best.items() if one is not None}


def _row(tested: Examined, chosen_for: list[str]) -> dict[str, Any]:
    candidate, result = tested.candidate, tested.result
    return {
        "name": candidate.name,
        "kind": candidate.kind,
        "path": str(candidate.path),
        "chosen_for": chosen_for,
        "instruction_sets": () if result is None else result.instruction_sets,
        "unused_instruction_sets": () if result is None else unused_sets(result.instruction_sets),
        "extra_buffers": tested.extra_buffers,
        "seconds": {} if result is None else result.seconds,
        "problem": tested.problem,
        "notes": tested.notes,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    times = [f"{row['seconds'][name] * 1000:.1f}" if row["seconds"] else "" for name in TYPES]
    return [row["name"], "failed" if row["problem"] else ", ".join(row["chosen_for"]) or "-", *times]


def _details(row: dict[str, Any]) -> list[tuple[str, str]]:
    buffers = "used" if row["extra_buffers"] else "not used, see the note"
    details = [
        ("instruction sets", " ".join(row["instruction_sets"])),
        ("also in this processor", " ".join(row["unused_instruction_sets"])),
        ("extra buffer types", "" if row["problem"] else buffers),
        ("note", row["notes"]),
        ("failed", row["problem"]),
    ]
    return [(label, value) for label, value in details if value]


@contextmanager
def _progress(console: Console) -> Generator[Callable[[str, float | None], None]]:
    """Return a callback that shows a build's progress: a bar in a terminal, elsewhere a line for each step and tenth."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    shown: set[tuple[str, int]] = set()
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def show_step(step: str, share: float | None) -> None:
            bars.update(task, description=step, total=None if share is None else 1.0, completed=share or 0.0)
            mark = (step, int(10 * (share or 0.0)))
            if not console.is_terminal and mark not in shown:
                shown.add(mark)
                console.print(step if share is None else f"{step}: {share:.0%}")

        yield show_step
