"""Choose the pictures of the report and draw them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from salf_contract import Preparation
from salf_training.checkpoint import Checkpoint
from salf_training.evaluation.explainers import CENTRE, EXACT, Explainer
from salf_training.evaluation.masked_pictures import MaskedPictures
from salf_training.evaluation.shown_pictures import (
    ComparedPicture,
    WrongPicture,
    data_uri,
    reasons,
    with_heatmap,
    with_mask,
)
from salf_training.image_folder import load_prepared

_REASONS = 5


@dataclass(frozen=True)
class Shown:
    """The pictures of the report."""

    worst: tuple[WrongPicture, ...]
    compared: tuple[ComparedPicture, ...]


def show_pictures(
    checkpoint: Checkpoint,
    pictures: MaskedPictures,
    logits: Tensor,
    methods: dict[str, Explainer],
    size: Preparation,
    *,
    worst: int,
    compared: int,
) -> Shown:
    """Draw the pictures of largest loss that are classified wrong, and heatmaps of a seeded choice of others.

    Args:
        checkpoint: the model.
        pictures: N pictures.
        logits: FP32 [N,K].
        methods: name -> explainer.
        size: what pictures and masks are drawn at.
        worst: most pictures of the first kind.
        compared: most pictures of the second kind.
    """
    labels = torch.from_numpy(pictures.labels)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    wrong = [index for index in loss.argsort(descending=True).tolist() if logits[index].argmax() != labels[index]]
    chosen = np.random.default_rng(1).permutation(len(pictures))[:compared]
    return Shown(
        tuple(_wrong(checkpoint, pictures, logits[index], methods[EXACT], index, size) for index in wrong[:worst]),
        tuple(_compared(checkpoint, pictures, methods, int(index), size) for index in chosen),
    )


def _wrong(
    checkpoint: Checkpoint, pictures: MaskedPictures, logits: Tensor, explain: Explainer, index: int, size: Preparation
) -> WrongPicture:
    path, truth, predicted = pictures.paths[index], int(pictures.labels[index]), int(logits.argmax())
    large, pixels = load_prepared(path, size), _model_pixels(checkpoint, path)
    probability = logits.softmax(dim=0)
    with torch.inference_mode():
        scores = checkpoint.model(pixels).scores
        parts = checkpoint.model.contributions(scores, torch.tensor([predicted]))
    predicted_map, truth_map = (explain(pixels, torch.tensor([target]))[0] for target in (predicted, truth))
    return WrongPicture(
        name=path.name,
        truth=checkpoint.classes[truth],
        predicted=checkpoint.classes[predicted],
        probability=float(probability[predicted]),
        truth_probability=float(probability[truth]),
        picture=data_uri(large),
        predicted_map=data_uri(with_heatmap(large, predicted_map)),
        truth_map=data_uri(with_heatmap(large, truth_map)),
        reasons=reasons(parts[0].numpy(), scores[0].numpy(), checkpoint.concepts, count=_REASONS),
    )


def _compared(
    checkpoint: Checkpoint, pictures: MaskedPictures, methods: dict[str, Explainer], index: int, size: Preparation
) -> ComparedPicture:
    path, truth = pictures.paths[index], int(pictures.labels[index])
    large, pixels = load_prepared(path, size), _model_pixels(checkpoint, path)
    mask = pictures.masks(index, size).target
    return ComparedPicture(
        name=path.name,
        truth=checkpoint.classes[truth],
        picture=data_uri(large),
        mask="" if mask is None else data_uri(with_mask(large, mask)),
        heatmaps={
            name: data_uri(with_heatmap(large, explain(pixels, torch.tensor([truth]))[0]))
            for name, explain in methods.items()
            if name != CENTRE
        },
    )


def _model_pixels(checkpoint: Checkpoint, path: Path) -> Tensor:
    return torch.from_numpy(load_prepared(path, checkpoint.card.preparation))[None]
