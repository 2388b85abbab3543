"""`salf train`: a model from pictures."""

from pathlib import Path
from typing import Annotated

import typer

from salf_cli.failures import one_line_failures, print_json, stderr_console


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
    from salf_cli.stages import StageBars
    from salf_training.pipeline import train_from_config

    with StageBars(stderr_console()) as bars:
        card = train_from_config(config, out, on_progress=bars)
    if json:
        print_json(card.model_dump(mode="json"))
    else:
        typer.echo(f"the model is in {out}; next: salf export {out} --repository model_repository --name NAME")
