"""Command line of the benchmarks.

Example:
    python -m benchmarks explain_cost --json explain_cost.json
    python -m benchmarks all --out results/
"""

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.report import CannotMeasureError, Result, print_result, write_result

#: Names of modules in this package; each has `measure(*, quick: bool) -> Result`.
NAMES = (
    "explain_cost",
    "answer_size",
    "post_hoc",
    "precision",
    "serve_overhead",
    "encoded_path",
    "sdk_overhead",
    "batch_scoring",
    "overload",
    "capacity",
    "head_solver",
)


def main(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(NAMES)}; or all.")],
    json: Annotated[Path | None, typer.Option(help="Write the result of one benchmark to this file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write NAME.json of every benchmark into this folder.")] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds: tries the code, figures mean little.")] = False,
) -> None:
    """Measure, print a table, write JSON. The exit status says only whether it could measure."""
    console = Console(stderr=True)
    if name != "all" and name not in NAMES:
        console.print(f"there is no benchmark {name!r}; choose one of {', '.join(NAMES)}, or all", style="red")
        raise typer.Exit(2)
    if name == "all" and json is not None:
        console.print("with 'all' give --out FOLDER instead of --json FILE", style="red")
        raise typer.Exit(2)
    failed = False
    for one in NAMES if name == "all" else (name,):
        try:
            result: Result = importlib.import_module(f"benchmarks.{one}").measure(quick=quick)
        except (CannotMeasureError, ImportError) as error:
            console.print(f"{one} could not be measured: {error}", style="red", markup=False)
            failed = True
            continue
        print_result(result)
        if json is not None:
            write_result(result, json)
        if out is not None:
            write_result(result, out / f"{one}.json")
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
