"""Retrain the demonstration model from nothing and replace it: `python -m demonstration.retrain`."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from demonstration.paths import CHECKPOINT, MODEL_NAME, PICTURES, REPOSITORY, ROOT
from salf_cli.stages import StageBars
from salf_export import ExportError, export_checkpoint
from salf_training.checkpoint import Evaluation, save_checkpoint
from salf_training.errors import TrainingError
from salf_training.scene_world import SceneWorldSettings, train_scene_world
from salf_training.scenes import CLASSES, draw_scene

#: Seeds of scenes that neither training nor the held-out figures have seen, one for each picture that is shown.
SHOWN_SEEDS = range(2_000_000, 2_000_400)
_SHOWN_CLASSES = ("harbour", "farm", "street", "camp", "airfield", "fair")


def main() -> int:
    """Train, export, replace; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of everything (default 0, the committed model's)")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "demonstration", help="for data and caches")
    parser.add_argument("--keep", action="store_true", help="use data, encoder and backbone of an earlier run again")
    options = parser.parse_args()
    console = Console()
    if options.runs.exists() and not options.keep:
        shutil.rmtree(options.runs)
    started_s = time.monotonic()
    try:
        with StageBars(console) as bars:
            checkpoint = train_scene_world(SceneWorldSettings(seed=options.seed), options.runs, on_progress=bars)
        card = save_checkpoint(CHECKPOINT, checkpoint)
        replace_repository(CHECKPOINT, REPOSITORY)
        write_pictures(PICTURES)
    except (TrainingError, ExportError, OSError) as error:
        Console(stderr=True).print(f"[red]retraining failed:[/red] {error}", soft_wrap=True)
        return 1
    if card.evaluation is not None:
        console.print(evaluation_table(card.evaluation))
    minutes = (time.monotonic() - started_s) / 60
    console.print(
        f"{MODEL_NAME} in {REPOSITORY.relative_to(ROOT)}/ is retrained ({minutes:.1f} minutes)", highlight=False
    )
    return 0


def replace_repository(checkpoint: Path, repository: Path) -> None:
    """Export beside the repository, and swap its models for the new ones only when all of them are there."""
    with tempfile.TemporaryDirectory(prefix=".retrain-", dir=repository.parent) as folder:
        fresh, old = Path(folder) / "fresh", Path(folder) / "old"
        fresh.mkdir()
        old.mkdir()
        export_checkpoint(checkpoint, fresh, name=MODEL_NAME)
        repository.mkdir(exist_ok=True)
        for model in sorted(path for path in repository.iterdir() if path.name.startswith(MODEL_NAME)):
            model.rename(old / model.name)
        for model in sorted(fresh.iterdir()):
            model.rename(repository / model.name)


def write_pictures(folder: Path) -> None:
    """Draw one scene of each shown class that no model has seen, and note the truth."""
    folder.mkdir(parents=True, exist_ok=True)
    truths: dict[str, dict[str, str]] = {}
    for seed in SHOWN_SEEDS:
        scene = draw_scene(seed)
        name = CLASSES[scene.label]
        if name in _SHOWN_CLASSES and f"{name}.jpg" not in truths:
            scene.image.save(folder / f"{name}.jpg", quality=92)
            truths[f"{name}.jpg"] = {"truth": name}
    (folder / "truth.json").write_text(json.dumps(truths, indent=1, sort_keys=True) + "\n")


def evaluation_table(evaluation: Evaluation) -> Table:
    """The figures of a model card, for people."""
    table = Table(title=f"{MODEL_NAME} on {evaluation.pictures} held-out pictures", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("backbone's own classifier", f"{evaluation.backbone_accuracy:.1%}")
    table.add_row("SALF-CBM", f"{evaluation.accuracy:.1%}")
    for point in evaluation.nec_curve:
        table.add_row(f"  with {point.concepts_per_class:.1f} concepts per class", f"{point.accuracy:.1%}")
    if evaluation.dense_accuracy is not None:
        table.add_row("  dense", f"{evaluation.dense_accuracy:.1%}")
    if (found := evaluation.localisation) is not None:
        table.add_row("pointing game, deciding concepts", f"{found.deciding_concepts:.1%}")
        table.add_row("pointing game, all objects", f"{found.all_objects:.1%}")
        table.add_row("  encoder's similarities", f"{found.encoder:.1%}")
        table.add_row("  centre point", f"{found.centre_point:.1%}")
        table.add_row("  random point", f"{found.random_point:.1%}")
    if (named := evaluation.naming) is not None:
        table.add_row("evidence by concepts of this world", f"{named.drawn:.1%}")
        table.add_row("evidence that says the truth", f"{named.true:.1%}")
        table.add_row("present evidence on the thing it names", f"{named.well_placed:.1%}")
    return table


if __name__ == "__main__":
    sys.exit(main())
