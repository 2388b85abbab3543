"""`salf train`: a model from pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salf_cli.failures import one_line_failures, print_json, stderr_console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@one_line_failures(command="train", extra="train")
def train(
    config: Annotated[
        Path, typer.Option(help="Settings (YAML): data, backbone, encoder, schedules, seed.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the model card as JSON on stdout.")] = False,
) -> None:
    """Train a model that explains itself.

    Example: salf train --config settings.yaml --out runs/scenes
    """
    from salf_training.pipeline import train_from_config

    with _stages() as bars:
        card = train_from_config(config, out, on_progress=_StageBars(bars))
    if json:
        print_json(card.model_dump(mode="json"))
    else:
        typer.echo(f"the model is in {out}; next: salf export {out} --repository model_repository --name NAME")


def _stages() -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=stderr_console())


class _StageBars:
    """One bar for each stage, made when the stage first reports."""

    def __init__(self, bars: "Progress") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)
