"""`salf evaluate`: how good a trained model and its explanations are."""

from pathlib import Path
from typing import Annotated

import typer

from salf_cli.failures import one_line_failures, print_json, stderr_console


@one_line_failures(command="evaluate", extra="evaluate")
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a trained model.", show_default=False)],
    data: Annotated[
        Path, typer.Option(help="Pictures, one folder per class; with masks/ if there are any.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.html and evaluation.json.")] = Path("evaluation"),
    train_data: Annotated[
        Path | None, typer.Option(help="Training pictures, to fit heads of 5 to 30 concepts per class on.")
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="Training settings (YAML) whose encoder the concepts are compared with.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most pictures; a seeded choice.")] = None,
    place_pictures: Annotated[
        int, typer.Option(min=1, help="Most pictures that heatmaps and masks are compared on; a seeded choice.")
    ] = 500,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")] = False,
) -> None:
    """Measure accuracy, places and faithfulness; write a report for people and one for programs.

    Example: salf evaluate runs/scenes --data runs/scenes-data/held_out --out evaluation
    """
    from salf_cli.stages import StageBars
    from salf_training.evaluation.evaluating import EvaluationSettings
    from salf_training.evaluation.writing import evaluate_folder

    settings = EvaluationSettings(limit=limit, place_pictures=place_pictures)
    with StageBars(stderr_console()) as bars:
        report = evaluate_folder(
            checkpoint,
            data,
            out,
            train_data=train_data,
            encoder_settings=encoder,
            settings=settings,
            on_progress=bars,
        )
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        typer.echo(f"accuracy {report.accuracy.checkpoint:.1%} on {report.pictures} pictures; the report is in {out}")
