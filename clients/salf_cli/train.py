"""`salf train`: a model from pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salf_cli.failures import FAILED, UsageFailure, one_line_failures, print_json, stderr_console

if TYPE_CHECKING:
    from salf_training.settings import TrainSettings


@one_line_failures(command="train", extra="train")
def train(
    config: Annotated[
        Path, typer.Option(help="Settings (YAML): data, backbone, encoder, schedules, seed.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the checkpoint; not needed for a dry run.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(envvar="SALF_DATA", help="Folder that {data} stands for in the settings.", show_default=False),
    ] = None,
    concepts_per_class: Annotated[
        str | None,
        typer.Option(help="Most concepts of a class, e.g. 5,10,30: the first is saved, all are reported."),
    ] = None,
    dense: Annotated[bool, typer.Option("--dense", help="Save a head without a sparsity penalty.")] = False,
    lam: Annotated[
        float | None, typer.Option("--lambda", help="Save the elastic net's head of this lambda.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print what training needs, without training.")
    ] = False,
    encodes_per_s: Annotated[
        float | None, typer.Option(min=1e-6, help="Dry run: the encoder's speed; measured here by default.")
    ] = None,
    pictures_per_s: Annotated[
        float | None, typer.Option(min=1e-6, help="Dry run: the backbone's speed; measured here by default.")
    ] = None,
    gpu_tflops: Annotated[
        float | None, typer.Option(min=1e-6, help="Dry run: what a GPU sustains, for GPU hours; 50 by default.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the model card, or the plan, as JSON on stdout.")] = False,
) -> None:
    """Train a model that explains itself.

    Example: salf train --config settings.yaml --out runs/scenes

    Plan first: salf train --config training/configs/cub200_resnet18.yaml --dry-run
    """
    from salf_cli.stages import StageBars
    from salf_training.pipeline import train_to_folder
    from salf_training.settings import DATA_PLACEHOLDER, read_settings, with_head

    if out is None and not dry_run:
        raise UsageFailure("salf train needs a place for the checkpoint: --out FOLDER (or --dry-run to plan only)")
    counts = _counts(concepts_per_class)
    # A plan can do without data: the placeholder stands for a folder that is not there.
    root = Path("/", DATA_PLACEHOLDER) if dry_run and data is None else data
    settings = with_head(read_settings(config, data=root), concepts_per_class=counts, dense=dense, lam=lam)
    if dry_run or out is None:
        given = {"encodes_per_s": encodes_per_s, "pictures_per_s": pictures_per_s, "gpu_tflops": gpu_tflops}
        _plan(settings, {name: value for name, value in given.items() if value is not None}, json=json)
        return
    with StageBars(stderr_console()) as bars:
        card = train_to_folder(settings, out, on_progress=bars)
    if json:
        print_json(card.model_dump(mode="json"))
    else:
        typer.echo(f"the model is in {out}; next: salf export {out} --repository model_repository --name NAME")


def _counts(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageFailure(f"--concepts-per-class takes numbers with commas, e.g. 5,10,30, not {text!r}") from None


def _plan(settings: "TrainSettings", speeds: dict[str, float], *, json: bool) -> None:
    from rich.console import Console

    from salf_cli.plans import plan_tables
    from salf_training.dry_run import dry_run

    with stderr_console().status("looking at data, weights and speed ..."):
        plan = dry_run(settings, **speeds)
    if json:
        print_json(plan.to_dict())
    else:
        Console().print(plan_tables(plan))
    if not plan.inspection.ready:
        raise typer.Exit(FAILED)
