"""From settings to a checkpoint: features, local similarities, bottleneck, head, figures. Stages are functions."""

import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from salf_training.backbone import build_backbone, feature_shape
from salf_training.bottleneck import fit_bottleneck
from salf_training.checkpoint import Checkpoint, Evaluation, ModelCard, NecPoint, check_replaceable, save_checkpoint
from salf_training.embeddings import cached_prompt_embeddings, local_similarities, presence
from salf_training.encoder import Encoder, OpenClipEncoder
from salf_training.errors import DataError, SettingsError
from salf_training.features import compute_features, features_on_grid
from salf_training.head import Head, HeadTraining, fit_head, fit_path, head_with_nec
from salf_training.image_folder import LabelledPictures, read_image_folder, read_names
from salf_training.model import SalfModel
from salf_training.progress import Progress, silent
from salf_training.settings import TrainSettings, read_settings
from salf_training.weights import read_weights

_logger = logging.getLogger(__name__)

#: Share of a typical concept's spread below which a concept counts as constant; its scores stay near zero.
_STD_FLOOR = 1e-3


@dataclass(frozen=True)
class FittedHeads:
    """The head that goes into the checkpoint, and what the others reached on held-out pictures.

    The heads' weights are for the deciding concepts only.
    """

    chosen: Head
    accuracy: float
    curve: tuple[NecPoint, ...]
    dense_accuracy: float


def train_from_config(config: Path, out: Path, *, on_progress: Progress = silent) -> ModelCard:
    """Train what a settings file describes and write the checkpoint folder.

    Raises:
        TrainingError: settings, data, weights, or a place for the checkpoint that cannot be used.
    """
    check_replaceable(out)  # before the hours, not after them
    return save_checkpoint(out, train_model(read_settings(config), on_progress=on_progress))


def train_model(
    settings: TrainSettings, *, encoder: Encoder | None = None, on_progress: Progress = silent
) -> Checkpoint:
    """Train a SALF-CBM on a frozen backbone.

    Args:
        settings: data, backbone, encoder, schedules.
        encoder: instead of the open_clip model that the settings name.
        on_progress: told as each stage goes on.

    Raises:
        TrainingError: settings, data, weights that cannot be used.
    """
    concepts = read_names(settings.concepts)
    pictures, held_out = read_image_folder(settings.train), read_image_folder(settings.held_out)
    if pictures.classes != held_out.classes:
        raise DataError(
            f"{settings.train} and {settings.held_out} hold different classes: "
            f"{', '.join(sorted(set(pictures.classes) ^ set(held_out.classes)))} in only one of them"
        )
    model = _frozen_model(settings, concepts=len(concepts), classes=len(pictures.classes))
    encoder = OpenClipEncoder(settings.encoder) if encoder is None else encoder
    features = compute_features(model, pictures.paths, settings.preparation, on_progress=on_progress)
    held_out_features = compute_features(
        model, held_out.paths, settings.preparation, stage="held-out features", on_progress=on_progress
    )
    deciding = _fit_concepts(model, features, pictures, concepts, encoder, settings, on_progress)
    if not _load_classifier(model, settings):
        _fit_classifier(model, features, pictures)
    heads = _fit_heads(model, features, pictures, held_out_features, held_out, deciding, settings.head, on_progress)
    model.head_weight[:, deciding] = heads.chosen.weight
    model.head_bias.copy_(heads.chosen.bias)
    card = ModelCard(
        backbone=settings.backbone,
        preparation=settings.preparation,
        pixel_mean=settings.pixel_mean,
        pixel_std=settings.pixel_std,
        feature_shape=(features.shape[1], features.shape[2], features.shape[3]),
        grid=(settings.circles.rows, settings.circles.columns),
        concepts_per_class=heads.chosen.concepts_per_class,
        evaluation=Evaluation(
            pictures=len(held_out),
            backbone_accuracy=_accuracy(model.classify(held_out_features), held_out),
            accuracy=heads.accuracy,
            nec_curve=heads.curve,
            dense_accuracy=heads.dense_accuracy,
        ),
        seeds={"training": settings.seed},
        data={"train": f"{len(pictures)} pictures", "held_out": f"{len(held_out)} pictures"},
        encoder={"model": Path(settings.encoder.model).name, "pictures": str(settings.similarity_pictures)},
        versions={name: version(name) for name in ("salf", "torch", "timm", "open_clip_torch")},
    )
    return Checkpoint(model.eval(), card, pictures.classes, concepts)


def similarity_subset(pictures: LabelledPictures, count: int, *, seed: int) -> list[int]:
    """Indices of the pictures that the bottleneck learns from: a seeded choice without repetition, sorted."""
    generator = np.random.default_rng(seed)
    return sorted(generator.choice(len(pictures), size=min(count, len(pictures)), replace=False).tolist())


def _frozen_model(settings: TrainSettings, *, concepts: int, classes: int) -> SalfModel:
    """The model with its backbone's weights; everything after it still empty."""
    if settings.backbone_weights is None:
        if not settings.pretrained:
            _logger.warning("the backbone has fresh weights: set backbone_weights or pretrained for one that sees")
        torch.manual_seed(settings.seed)
        backbone = build_backbone(settings.backbone, pretrained=settings.pretrained)
    else:
        backbone = build_backbone(settings.backbone, weights=settings.backbone_weights)
    backbone.eval().requires_grad_(requires_grad=False)
    size = settings.preparation
    channels, _, _ = feature_shape(backbone, height=size.height, width=size.width)
    model = SalfModel(backbone, channels=channels, concepts=concepts, classes=classes).eval()
    model.pixel_mean.copy_(torch.tensor(settings.pixel_mean))
    model.pixel_std.copy_(torch.tensor(settings.pixel_std))
    return model


def _fit_concepts(
    model: SalfModel,
    features: Tensor,
    pictures: LabelledPictures,
    concepts: tuple[str, ...],
    encoder: Encoder,
    settings: TrainSettings,
    on_progress: Progress,
) -> Tensor:
    """Fit W_c on a subset's similarities, and the scores' mean and std on all training pictures.

    Returns:
        BOOL [M]: the concepts that are present enough in the pictures to decide a class.
    """
    subset = similarity_subset(pictures, settings.similarity_pictures, seed=settings.seed)
    embeddings = cached_prompt_embeddings(
        settings.cache,
        [pictures.paths[i] for i in subset],
        encoder,
        settings.circles,
        preparation=settings.preparation,
        on_progress=on_progress,
    )
    similarities = local_similarities(embeddings, encoder.embed_texts(concepts))
    on_grid = features_on_grid(features[subset], rows=settings.circles.rows, columns=settings.circles.columns)
    weight, _ = fit_bottleneck(
        on_grid, similarities, settings=settings.bottleneck, seed=settings.seed, on_progress=on_progress
    )
    model.concept_weight.copy_(weight)
    pooled = features.mean(dim=(2, 3)) @ weight.T
    std = pooled.std(dim=0)
    model.score_mean.copy_(pooled.mean(dim=0))
    model.score_std.copy_(std.clamp_min(_STD_FLOOR * float(std.median())))
    shown = presence(similarities)
    if not (shown >= settings.presence_cutoff).any():
        raise SettingsError(
            f"presence_cutoff {settings.presence_cutoff} leaves none of {len(concepts)} concepts to decide by; the "
            f"strongest reaches {float(shown.max()):.2f}"
        )
    return shown >= settings.presence_cutoff


def _fit_heads(
    model: SalfModel,
    features: Tensor,
    pictures: LabelledPictures,
    held_out_features: Tensor,
    held_out: LabelledPictures,
    deciding: Tensor,
    settings: HeadTraining,
    on_progress: Progress,
) -> FittedHeads:
    scores, held_out_scores = (
        model.scores(model.concept_maps(f))[:, deciding].double() for f in (features, held_out_features)
    )
    labels = torch.from_numpy(pictures.labels)
    path = fit_path(scores, labels, classes=len(pictures.classes), settings=settings, on_progress=on_progress)
    dense = fit_head(
        scores,
        labels,
        classes=len(pictures.classes),
        l1=0.0,
        l2=settings.refit_penalty,
        start=path[-1],
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
    )
    wanted = sorted({*settings.curve, settings.concepts_per_class})
    heads: dict[int, Head] = {}
    for nec in wanted:
        heads[nec] = head_with_nec([*path, dense], nec, scores=scores, labels=labels, settings=settings)
        on_progress("sparse heads", len(heads), len(wanted))

    def reached(head: Head) -> float:
        return _accuracy(held_out_scores @ head.weight.T + head.bias, held_out)

    chosen = heads[settings.concepts_per_class]
    return FittedHeads(
        chosen=Head(chosen.weight.float(), chosen.bias.float()),
        accuracy=reached(chosen),
        curve=tuple(
            NecPoint(concepts_per_class=heads[nec].concepts_per_class, accuracy=reached(heads[nec]))
            for nec in settings.curve
        ),
        dense_accuracy=reached(dense),
    )


def _load_classifier(model: SalfModel, settings: TrainSettings) -> bool:
    """Take the backbone's own classifier from its weight file, if it is there."""
    if settings.backbone_weights is None:
        return False
    state = read_weights(settings.backbone_weights)
    weight, bias = state.get("classifier.weight"), state.get("classifier.bias")
    if weight is None or bias is None:
        return False
    if weight.shape != model.classifier_weight.shape or bias.shape != model.classifier_bias.shape:
        # Many timm networks call their classifier so; theirs is for other classes.
        _logger.warning(
            "the classifier in %s is for other classes (shape %s, expected %s): fitting one instead",
            settings.backbone_weights,
            tuple(weight.shape),
            tuple(model.classifier_weight.shape),
        )
        return False
    model.classifier_weight.copy_(weight)
    model.classifier_bias.copy_(bias)
    return True


def _fit_classifier(model: SalfModel, features: Tensor, pictures: LabelledPictures) -> None:
    """A linear probe on pooled features, for backbones that were not trained on these classes."""
    pooled = features.mean(dim=(2, 3)).double()
    mean, std = pooled.mean(dim=0), pooled.std(dim=0).clamp_min(1e-9)
    probe = fit_head(
        (pooled - mean) / std, torch.from_numpy(pictures.labels), classes=len(pictures.classes), l1=0.0, l2=1e-4
    )
    weight = probe.weight / std
    model.classifier_weight.copy_(weight)
    model.classifier_bias.copy_(probe.bias - weight @ mean)


def _accuracy(logits: Tensor, pictures: LabelledPictures) -> float:
    return float((logits.argmax(dim=1).numpy() == pictures.labels).mean())
