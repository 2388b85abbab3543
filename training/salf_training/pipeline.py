"""From settings to a checkpoint: features, local similarities, bottleneck, head, figures. Stages are functions."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from salf_training.backbone import brings_own_weights, build_backbone, feature_shape
from salf_training.checkpoint import Checkpoint, Evaluation, ModelCard, check_replaceable, save_checkpoint
from salf_training.concept_sets import ConceptReport
from salf_training.concept_stage import FittedConcepts, fit_concepts
from salf_training.encoder import Encoder
from salf_training.encoder_loading import load_encoders
from salf_training.errors import DataError
from salf_training.feature_pass import feature_chunks, keep_features
from salf_training.head import Head
from salf_training.head_choice import FittedHeads, LabelledScores, choose_heads
from salf_training.image_folder import LabelledPictures, read_image_folder, read_names
from salf_training.model import SalfModel, pool_maps
from salf_training.own_classifier import fit_probe, read_classifier
from salf_training.progress import Progress, silent
from salf_training.score_tables import Table, column_statistics, fill_table, pieces, right_share, standardise
from salf_training.settings import TrainSettings

_logger = logging.getLogger(__name__)

#: Share of a typical concept's spread below which a concept counts as constant; its scores stay near zero.
_STD_FLOOR = 1e-3
#: Beside the weights in a checkpoint's folder, if concepts were filtered.
REPORT_FILE = "concepts_report.json"


@dataclass(frozen=True)
class Trained:
    """A trained model, and what became of its concept list."""

    checkpoint: Checkpoint
    concepts: ConceptReport


@dataclass(frozen=True)
class _Split:
    """One folder's pictures, under the names that the checkpoint gives its classes."""

    pictures: LabelledPictures
    pooled: Tensor  # FP32 [N,C]


def train_to_folder(settings: TrainSettings, out: Path, *, on_progress: Progress = silent) -> ModelCard:
    """Train and write the checkpoint folder, with the concept report if concepts were filtered.

    Raises:
        TrainingError: data, weights, or a place for the checkpoint that cannot be used.
    """
    check_replaceable(out)  # before the hours, not after them
    trained = train(settings, on_progress=on_progress)
    card = save_checkpoint(out, trained.checkpoint)
    if settings.concept_filters is not None:
        trained.concepts.write(out / REPORT_FILE)
    return card


def train_model(
    settings: TrainSettings, *, encoder: Encoder | None = None, on_progress: Progress = silent
) -> Checkpoint:
    """As `train`, without the concept report."""
    return train(settings, encoder=encoder, on_progress=on_progress).checkpoint


def train(settings: TrainSettings, *, encoder: Encoder | None = None, on_progress: Progress = silent) -> Trained:
    """Train a SALF-CBM on a frozen backbone.

    Args:
        settings: data, backbone, encoder, schedules.
        encoder: instead of the one that the settings name.
        on_progress: told as each stage goes on.

    Raises:
        TrainingError: settings, data, weights that cannot be used.
    """
    concepts = read_names(settings.concepts)
    pictures, held_out_pictures = read_splits(settings)
    classes = class_names(settings, pictures.classes)
    bare, features_of_one = _bare_model(settings, classes=len(classes))
    encoders = load_encoders(settings.encoder) if encoder is None else [encoder]
    subset = similarity_subset(pictures, settings.similarity_pictures, seed=settings.seed)
    kept = keep_features(
        bare,
        pictures.paths,
        settings.preparation,
        chosen=subset,
        grid=(settings.circles.rows, settings.circles.columns),
        on_progress=on_progress,
    )
    kept_held_out = keep_features(
        bare, held_out_pictures.paths, settings.preparation, stage="held-out features", on_progress=on_progress
    )
    fitted = fit_concepts(
        kept.on_grid, [pictures.paths[i] for i in subset], concepts, classes, encoders, settings, on_progress
    )
    model = _with_concepts(bare, fitted, settings)
    split, held_out = _Split(pictures, kept.pooled), _Split(held_out_pictures, kept_held_out.pooled)
    settings.cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="tables-", dir=settings.cache) as folder:
        own = _own_classifier(split, settings, folder=Path(folder))
        heads = _fit_heads(model, fitted.deciding, split, held_out, settings, Path(folder), on_progress)
    for buffer, value in (
        (model.classifier_weight, own.weight),
        (model.classifier_bias, own.bias),
        (model.head_bias, heads.chosen.bias),
    ):
        buffer.copy_(value)
    model.head_weight[:, fitted.deciding] = heads.chosen.weight
    card = ModelCard(
        backbone=settings.backbone,
        preparation=settings.preparation,
        pixel_mean=settings.pixel_mean,
        pixel_std=settings.pixel_std,
        pooling=settings.pooling,
        feature_shape=features_of_one,
        grid=(settings.circles.rows, settings.circles.columns),
        concepts_per_class=heads.chosen.concepts_per_class,
        evaluation=Evaluation(
            pictures=len(held_out.pictures),
            backbone_accuracy=right_share(held_out.pooled, own.weight, own.bias, held_out.pictures.labels),
            accuracy=heads.accuracy,
            nec_curve=heads.curve,
            dense_accuracy=heads.dense_accuracy,
        ),
        seeds={"training": settings.seed},
        data={"train": f"{len(pictures)} pictures", "held_out": f"{len(held_out.pictures)} pictures"},
        encoder={"model": Path(settings.encoder.model).name, "pictures": str(settings.similarity_pictures)},
        versions={name: version(name) for name in ("salf", "torch", "timm", "open_clip_torch")},
    )
    return Trained(Checkpoint(model.eval(), card, classes, fitted.names), fitted.report)


def read_splits(settings: TrainSettings) -> tuple[LabelledPictures, LabelledPictures]:
    """Training and held-out pictures.

    Raises:
        DataError: a folder is missing or empty, or they hold different classes.
    """
    pictures, held_out = read_image_folder(settings.train), read_image_folder(settings.held_out)
    if pictures.classes != held_out.classes:
        raise DataError(
            f"{settings.train} and {settings.held_out} hold different classes: "
            f"{', '.join(sorted(set(pictures.classes) ^ set(held_out.classes)))} in only one of them"
        )
    return pictures, held_out


def class_names(settings: TrainSettings, folders: tuple[str, ...]) -> tuple[str, ...]:
    """K names as people say them: the settings' list, or the folders' own names.

    Raises:
        DataError: another number of names than of folders.
    """
    if settings.class_names is None:
        return folders
    names = read_names(settings.class_names)
    if len(names) != len(folders):
        raise DataError(
            f"{settings.class_names} holds {len(names)} names, but {settings.train} has {len(folders)} class folders; "
            "expected one name for each folder, in the folders' alphabetical order"
        )
    return names


def similarity_subset(pictures: LabelledPictures, count: int, *, seed: int) -> list[int]:
    """Indices of the pictures that the bottleneck learns from: a seeded choice without repetition, sorted."""
    generator = np.random.default_rng(seed)
    return sorted(generator.choice(len(pictures), size=min(count, len(pictures)), replace=False).tolist())


def _bare_model(settings: TrainSettings, *, classes: int) -> tuple[SalfModel, tuple[int, int, int]]:
    """The model with its backbone's weights and no concepts yet, and the shape (C, h, w) of its features."""
    if settings.backbone_weights is None:
        if not settings.pretrained and not brings_own_weights(settings.backbone):
            _logger.warning("the backbone has fresh weights: set backbone_weights or pretrained for one that sees")
        torch.manual_seed(settings.seed)
        backbone = build_backbone(settings.backbone, pretrained=settings.pretrained)
    else:
        backbone = build_backbone(settings.backbone, weights=settings.backbone_weights)
    backbone.eval().requires_grad_(requires_grad=False)
    shape = feature_shape(backbone, height=settings.preparation.height, width=settings.preparation.width)
    model = SalfModel(backbone, channels=shape[0], concepts=0, classes=classes).eval()
    model.pixel_mean.copy_(torch.tensor(settings.pixel_mean))
    model.pixel_std.copy_(torch.tensor(settings.pixel_std))
    return model, shape


def _with_concepts(bare: SalfModel, fitted: FittedConcepts, settings: TrainSettings) -> SalfModel:
    """The same backbone with its bottleneck; statistics and heads still empty."""
    concepts, channels = fitted.weight.shape
    classes = len(bare.classifier_bias)
    model = SalfModel(
        bare.backbone, channels=channels, concepts=concepts, classes=classes, pooling=settings.pooling
    ).eval()
    for name in ("pixel_mean", "pixel_std"):
        getattr(model, name).copy_(getattr(bare, name))
    model.concept_weight.copy_(fitted.weight)
    return model


def _own_classifier(split: _Split, settings: TrainSettings, *, folder: Path) -> Head:
    """The backbone's own classifier, or a probe in its place."""
    classes = len(split.pictures.classes)
    if settings.backbone_weights is not None:
        found = read_classifier(settings.backbone_weights, classes=classes, channels=split.pooled.shape[1])
        if found is not None:
            return found
    return fit_probe(
        split.pooled, split.pictures.labels, classes=classes, folder=folder, held_bytes=settings.held_table_bytes
    )


def _fit_heads(
    model: SalfModel,
    deciding: Tensor,
    split: _Split,
    held_out: _Split,
    settings: TrainSettings,
    folder: Path,
    on_progress: Progress,
) -> FittedHeads:
    """Statistics of all scores into the model, then the heads on the deciding concepts' standardised scores."""
    raw, raw_held_out = (
        fill_table(
            _pooled_maps(model, part, settings, stage, on_progress),
            count=len(part.pictures),
            columns=len(model.concept_bias),
            folder=folder,
            held_bytes=settings.held_table_bytes,
        )
        for part, stage in ((split, "scores"), (held_out, "held-out scores"))
    )
    mean, std = column_statistics(raw)
    model.score_mean.copy_(mean)
    model.score_std.copy_(std.clamp_min(_STD_FLOOR * float(std.median())))

    def standardised(table: Table) -> Table:
        if not deciding.all():
            table = fill_table(
                (piece[:, deciding] for piece in pieces(table)),
                count=len(table),
                columns=int(deciding.sum()),
                folder=folder,
                held_bytes=settings.held_table_bytes,
            )
        return standardise(table, model.score_mean[deciding].double(), model.score_std[deciding].double())

    return choose_heads(
        LabelledScores(standardised(raw), split.pictures.labels),
        LabelledScores(standardised(raw_held_out), held_out.pictures.labels),
        classes=len(split.pictures.classes),
        settings=settings.head,
        dense=settings.dense_head,
        lam=settings.head_lambda,
        on_progress=on_progress,
    )


def _pooled_maps(
    model: SalfModel, split: _Split, settings: TrainSettings, stage: str, on_progress: Progress
) -> Iterator[Tensor]:
    """Raw pooled concept maps in order, FP32 [B,M]."""
    if settings.pooling == "average":  # pooling and the bottleneck change places
        for piece in pieces(split.pooled):
            yield piece @ model.concept_weight.T
        return
    paths = split.pictures.paths
    for _, features in feature_chunks(model, paths, settings.preparation, stage=stage, on_progress=on_progress):
        for part in features.split(32):  # concept maps are larger than features
            yield pool_maps(model.concept_maps(part), settings.pooling)
