"""Evaluate a checkpoint on pictures: every figure of the report, in one pass over the pictures and a few side looks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from salf_training.checkpoint import Checkpoint
from salf_training.errors import DataError
from salf_training.evaluation.batching import batches
from salf_training.evaluation.document import Accuracy, EvaluationReport, RefittedHeads
from salf_training.evaluation.explainers import GRAD_CAM, Explainer, explainers, sharpened
from salf_training.evaluation.faithfulness import faithfulness_curves
from salf_training.evaluation.following import EncoderView, concept_similarities
from salf_training.evaluation.heads import refit_heads
from salf_training.evaluation.masked_pictures import MaskedPictures, compared_size, read_masked_pictures
from salf_training.evaluation.places import ConceptCase, SegmentationSums, concept_case, concept_places, verdicts
from salf_training.evaluation.showing import Shown, show_pictures
from salf_training.head_choice import LabelledScores
from salf_training.progress import Progress, silent
from salf_training.score_tables import fill_table

#: Largest table of training scores that is held; a larger one is a temporary file.
_HELD_TABLE_BYTES = 2 * 1024**3


class EvaluationSettings(BaseModel):
    """How much is looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int | None = Field(default=None, ge=1, description="most pictures; a seeded choice")
    place_pictures: int = Field(default=500, ge=1, description="most pictures that masks are compared on; seeded")
    gradient_steps: int = Field(default=50, ge=1, description="of integrated gradients")
    faithfulness_pictures: int = Field(default=60, ge=0)
    faithfulness_steps: int = Field(default=10, ge=1, description="of deletion and insertion")
    encoder_pictures: int = Field(default=200, ge=1, description="that the encoder's similarities are computed on")
    worst: int = Field(default=12, ge=0, description="pictures of largest loss that are shown")
    compared: int = Field(default=8, ge=0, description="pictures whose heatmaps are shown side by side")


@dataclass(frozen=True)
class Answers:
    """What the model says about N pictures: scores FP32 [N,M], logits [N,K], the backbone's own logits [N,K]."""

    scores: Tensor
    logits: Tensor
    own_logits: Tensor


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    data: Path,
    *,
    name: str,
    settings: EvaluationSettings | None = None,
    train_data: Path | None = None,
    view: EncoderView | None = None,
    on_progress: Progress = silent,
) -> tuple[EvaluationReport, Shown]:
    """Measure everything that the data allows.

    Args:
        checkpoint: the model.
        data: pictures, with masks where there are any (see masked_pictures).
        name: of the checkpoint, for the report.
        settings: how much is looked at.
        train_data: training pictures to refit heads of 5 to 30 concepts per class on.
        view: the encoder that concepts are compared with.
        on_progress: told as each stage goes on.

    Raises:
        DataError: pictures or masks that cannot be used, or a model that starts from features.
    """
    settings = EvaluationSettings() if settings is None else settings
    model, card = checkpoint.model, checkpoint.card
    if card.starts_from_features:
        raise DataError(f"the checkpoint {name} has no backbone, so pictures cannot be put to it; import it with one")
    pictures = read_masked_pictures(data, checkpoint.classes, limit=settings.limit)
    answers = _answers(checkpoint, pictures.paths, on_progress)
    methods = explainers(model, steps=settings.gradient_steps)
    with_sharpened = methods | sharpened(methods)
    cases, sums = _places(checkpoint, pictures.some(settings.place_pictures), with_sharpened, on_progress)
    segmentation = {method: found.figures() for method, found in sums.items() if found.precisions}
    faithful = faithfulness_curves(
        model,
        pictures.paths,
        methods,
        card.preparation,
        count=settings.faithfulness_pictures,
        steps=settings.faithfulness_steps,
        on_progress=on_progress,
    )
    has_classifier = GRAD_CAM in methods
    report = EvaluationReport(
        checkpoint=name,
        weights_sha256=card.weights_sha256,
        data=str(data),
        pictures=len(pictures),
        pooling=card.pooling,
        classes=len(checkpoint.classes),
        concepts=len(checkpoint.concepts),
        accuracy=Accuracy(
            checkpoint=_right_share(answers.logits, pictures.labels),
            concepts_per_class=float((model.head_weight != 0).sum()) / len(checkpoint.classes),
            backbone=_right_share(answers.own_logits, pictures.labels) if has_classifier else None,
            refitted=_refitted(checkpoint, train_data, answers, pictures, on_progress),
        ),
        concept_places=concept_places(cases),
        deciding_places=concept_places([case for case in cases if case.decides]),
        segmented_pictures=max((len(found.precisions) for found in sums.values()), default=0),
        segmentation=segmentation,
        ahead=verdicts(segmentation),
        faithfulness_pictures=min(settings.faithfulness_pictures, len(pictures)),
        faithfulness=faithful,
        encoder_similarity=concept_similarities(
            checkpoint, pictures.paths, view, count=settings.encoder_pictures, on_progress=on_progress
        )
        if view
        else (),
        left_out=_left_out(train_data, view, has_masks=bool(segmentation), has_classifier=has_classifier),
    )
    size = compared_size(card.preparation)
    shown = show_pictures(
        checkpoint, pictures, answers.logits, methods, size, worst=settings.worst, compared=settings.compared
    )
    return report, shown


@torch.inference_mode()
def _answers(checkpoint: Checkpoint, paths: tuple[Path, ...], on_progress: Progress) -> Answers:
    scores, logits, own = [], [], []
    for pixels, done in batches(paths, checkpoint.card.preparation):
        answer = checkpoint.model(pixels)
        scores.append(answer.scores)
        logits.append(answer.logits)
        own.append(checkpoint.model.classify(answer.features))
        on_progress("pictures", done, len(paths))
    return Answers(torch.cat(scores), torch.cat(logits), torch.cat(own))


def _places(
    checkpoint: Checkpoint, pictures: MaskedPictures, methods: dict[str, Explainer], on_progress: Progress
) -> tuple[list[ConceptCase], dict[str, SegmentationSums]]:
    """Judge concept maps and class maps by every mask there is."""
    cases: list[ConceptCase] = []
    sums = {method: SegmentationSums() for method in methods}
    if not pictures.has_masks:
        return cases, sums
    model, size = checkpoint.model, compared_size(checkpoint.card.preparation)
    index_of = {concept: index for index, concept in enumerate(checkpoint.concepts)}
    deciding = (model.head_weight != 0).any(dim=0).tolist()
    for pixels, done in batches(pictures.paths, checkpoint.card.preparation):
        first = done - len(pixels)
        masks = [pictures.masks(index, size) for index in range(first, done)]
        with torch.inference_mode():
            maps = model.concept_maps(model.features(pixels)).numpy()
        for picture_maps, found in zip(maps, masks, strict=True):
            cases += [
                concept_case(picture_maps[index_of[concept]], mask, decides=deciding[index_of[concept]])
                for concept, mask in found.concepts.items()
                if concept in index_of
            ]
        segmented = [index for index, found in enumerate(masks) if found.target is not None and found.target.any()]
        targets = torch.from_numpy(pictures.labels[first:done])[segmented]
        for method, explain in methods.items() if segmented else ():
            for heatmap, index in zip(explain(pixels[segmented], targets), segmented, strict=True):
                truth = masks[index].target
                if truth is not None:
                    sums[method].add(heatmap, truth)
        on_progress("places", done, len(pictures))
    return cases, sums


def _refitted(
    checkpoint: Checkpoint,
    train_data: Path | None,
    answers: Answers,
    pictures: MaskedPictures,
    on_progress: Progress,
) -> RefittedHeads | None:
    if train_data is None:
        return None
    train = read_masked_pictures(train_data, checkpoint.classes, limit=None)
    missing = set(range(len(checkpoint.classes))) - set(train.labels.tolist())
    if missing:
        raise DataError(
            f"{train_data} has no pictures of {len(missing)} of the checkpoint's {len(checkpoint.classes)} classes, "
            f"such as {checkpoint.classes[min(missing)]}; heads cannot be fitted without them"
        )
    with TemporaryDirectory(prefix="salf-evaluate-") as folder:
        scores = fill_table(
            _scores(checkpoint, train.paths, "training pictures", on_progress),
            count=len(train),
            columns=len(checkpoint.concepts),
            folder=Path(folder),
            held_bytes=_HELD_TABLE_BYTES,
        )
        return refit_heads(
            LabelledScores(scores.double() if isinstance(scores, Tensor) else scores, train.labels),
            LabelledScores(answers.scores, pictures.labels),
            classes=len(checkpoint.classes),
            on_progress=on_progress,
        )


@torch.inference_mode()
def _scores(checkpoint: Checkpoint, paths: tuple[Path, ...], stage: str, on_progress: Progress) -> Iterator[Tensor]:
    """Z of pictures in order, FP32 [B,M]; of all ImageNet's they are 24 GB, so they are not held here."""
    for pixels, done in batches(paths, checkpoint.card.preparation):
        yield checkpoint.model(pixels).scores
        on_progress(stage, done, len(paths))


def _left_out(
    train_data: Path | None, view: EncoderView | None, *, has_masks: bool, has_classifier: bool
) -> tuple[str, ...]:
    reasons = []
    if train_data is None:
        reasons.append("heads with 5 to 30 concepts per class and dense: give training pictures with --train-data")
    if not has_masks:
        reasons.append("segmentation: the data has no masks of its classes (docs/evaluation.md shows the layout)")
    if not has_classifier:
        reasons.append("Grad-CAM, integrated gradients, the backbone's accuracy: it has no classifier of its own")
    if view is None:
        reasons.append("similarity to the encoder: give the training settings that name it with --encoder")
    return tuple(reasons)


def _right_share(logits: Tensor, labels: NDArray[np.int64]) -> float:
    return float((logits.argmax(dim=1).numpy() == labels).mean())
