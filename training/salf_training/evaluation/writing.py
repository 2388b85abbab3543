"""From a checkpoint folder to report.html and evaluation.json."""

from pathlib import Path

from salf_training.checkpoint import load_checkpoint
from salf_training.encoder_loading import load_encoders
from salf_training.errors import DataError
from salf_training.evaluation.document import EvaluationReport
from salf_training.evaluation.evaluating import EvaluationSettings, evaluate_checkpoint
from salf_training.evaluation.following import EncoderView
from salf_training.evaluation.rendering import render
from salf_training.progress import Progress, silent
from salf_training.settings import read_settings
from salf_training.whole_files import replace_file

REPORT_FILE, FIGURES_FILE = "report.html", "evaluation.json"


def evaluate_folder(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    train_data: Path | None = None,
    encoder_settings: Path | None = None,
    settings: EvaluationSettings | None = None,
    on_progress: Progress = silent,
) -> EvaluationReport:
    """Evaluate a checkpoint and write both reports; each file is the old one or the new one, never half of it.

    Args:
        checkpoint: folder.
        data: pictures, with masks where there are any.
        out: folder for the reports; made if needed.
        train_data: training pictures to refit heads on.
        encoder_settings: YAML of a training run; its encoder and prompts are used.
        settings: how much is looked at.
        on_progress: told as each stage goes on.

    Raises:
        TrainingError: a checkpoint, pictures, masks, settings or an encoder that cannot be used.
    """
    loaded = load_checkpoint(checkpoint)
    view = None
    if encoder_settings is not None:
        training = read_settings(encoder_settings)
        view = EncoderView(tuple(load_encoders(training.encoder)), training.circles)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; --out must be a folder")
    report, shown = evaluate_checkpoint(
        loaded,
        data,
        name=checkpoint.resolve().name,
        settings=settings,
        train_data=train_data,
        view=view,
        on_progress=on_progress,
    )
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / REPORT_FILE, render(report, shown).encode())
    replace_file(out / FIGURES_FILE, f"{report.model_dump_json(indent=1)}\n".encode())
    return report
