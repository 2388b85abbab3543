"""`salf tune`: the settings with which a model is fastest within a latency bound."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from salf_cli.failures import one_line_failures, stderr_console

if TYPE_CHECKING:
    from salf_contract import Trial, TuningRecord


@one_line_failures(command="tune", extra="serve")
def tune(
    repository: Annotated[Path, typer.Argument(help="Model repository.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    p95_ms: Annotated[float, typer.Option(min=0.001, help="95 of 100 requests must be answered within this time.")],
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests under way at a time.")] = 8,
    budget_s: Annotated[float, typer.Option(min=10, help="Seconds for all trials.")] = 180.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and change nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON on stdout.")] = False,
) -> None:
    """Try copies, threads, batch sizes and queue delays on a real server, and write the best into the repository.

    Example: salf tune model_repository scenes --p95-ms 50
    """
    from salf_cli.stages import StageBars
    from salf_serving.tuning import TuningGoal
    from salf_serving.tuning import tune as tune_model

    goal = TuningGoal(p95_bound_ms=p95_ms, concurrency=concurrency, budget_s=budget_s)
    with StageBars(stderr_console()) as bars:
        total = round(budget_s)

        def show(_trial: "Trial", elapsed_s: float) -> None:
            bars("seconds of trials", min(round(elapsed_s), total - 1), total)

        record = tune_model(repository, name, goal, on_trial=show, write=not dry_run)
        bars("seconds of trials", total, total)
    if json:
        typer.echo(record.to_json(), nl=False)
        return
    console = Console()
    console.print(_table(record))
    best = record.best
    done = "nothing was changed" if dry_run else f"written to {repository / name}; salf serve takes it when it loads"
    typer.echo(
        f"best for {name} version {record.version}: {best.instances} x {best.threads} threads, batches of up to "
        f"{best.max_batch_size}, {best.max_queue_delay_microseconds} us of waiting; {done}"
    )


def _table(record: "TuningRecord") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("copies", "threads", "batch", "delay us", "pictures/s", "p50 ms", "p95 ms", "requests", ""):
        table.add_column(heading, justify="right")
    for trial in sorted(record.trials, key=lambda trial: -trial.pictures_per_s):
        tried = trial.settings
        word = "best" if tried == record.best else "" if trial.fits else "over the bound"
        table.add_row(
            str(tried.instances), str(tried.threads), str(tried.max_batch_size),
            str(tried.max_queue_delay_microseconds), f"{trial.pictures_per_s:.1f}", f"{trial.p50_ms:.1f}",
            f"{trial.p95_ms:.1f}", str(trial.requests), word, style="bold" if word == "best" else None,
        )  # fmt: skip
    return table
