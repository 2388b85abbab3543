"""Do explanations survive a faster runtime? Compared with the PyTorch model in float32, on pictures.

Axis letters: P pictures, K classes, M concepts, h w concept map, k concepts looked at (at most five).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from salf_contract import IMAGE_INPUT, NO_CONCEPT, ExplanationFidelity, Preparation
from salf_export.pictures import Pictures
from salf_export.runtime import LARGEST_BATCH, Session
from salf_training.checkpoint import Checkpoint
from salf_training.evaluation.masked_pictures import compared_size
from salf_training.localisation import pointing_cases, pointing_hits
from salf_training.model import SalfModel

#: Concepts of each picture whose contributions and maps are compared.
DEPTH = 5


@dataclass(frozen=True)
class Explained:
    """What the PyTorch model says about one picture, of the class that it predicts.

    Attributes:
        predicted: the class.
        concepts: INT64 [k], those that contribute most, by falling |contribution|; none with weight zero.
        contributions: FP32 [k].
        maps: FP32 [k,h,w], (c - mean) / std.
    """

    predicted: int
    concepts: NDArray[np.int64]
    contributions: NDArray[np.float32]
    maps: NDArray[np.float32]


def explain_with_torch(model: SalfModel, pixels: NDArray[np.uint8], *, top: int) -> tuple[Explained, ...]:
    """Ask the model as trained: all maps by convolution, the unfolded head.

    Args:
        model: in evaluation mode.
        pixels: UINT8 [P,H,W,3].
        top: slots of the exported explanation; no more concepts than these are looked at.

    Returns:
        P explanations.
    """
    explained: list[Explained] = []
    for start in range(0, len(pixels), LARGEST_BATCH):
        with torch.inference_mode():
            answer = model(torch.from_numpy(pixels[start : start + LARGEST_BATCH]))
            maps = (answer.maps - model.score_mean[:, None, None]) / model.score_std[:, None, None]
            predicted = answer.logits.argmax(dim=1)
            contributions = model.contributions(answer.scores, predicted)
        for row, target in enumerate(predicted.tolist()):
            own = contributions[row].numpy()
            used = np.flatnonzero(model.head_weight[target].numpy())
            order = used[np.argsort(-np.abs(own[used]), kind="stable")][: min(top, DEPTH)]
            explained.append(Explained(target, order, own[order], maps[row, torch.from_numpy(order)].numpy()))
    return tuple(explained)


def compare_explanations(
    session: Session, pixels: NDArray[np.uint8], expected: tuple[Explained, ...]
) -> ExplanationFidelity:
    """Ask an explain graph about the same pictures and the same classes.

    Args:
        session: of an explain graph.
        pixels: UINT8 [P,H,W,3].
        expected: of these pictures.

    Returns:
        The shares and errors; pointing is left out.
    """
    same = 0
    overlaps, orders, cosines, errors = [], [], [], [0.0]
    for start in range(0, len(pixels), LARGEST_BATCH):
        some = expected[start : start + LARGEST_BATCH]
        target = np.array([[one.predicted] for one in some], np.int32)
        answer = session.run({IMAGE_INPUT.name: pixels[start : start + LARGEST_BATCH], "target": target})
        same += int((answer["logits"].argmax(axis=1) == target[:, 0]).sum())
        for row, one in enumerate(some):
            shown = _shown({name: values[row] for name, values in answer.items()})
            if not len(one.concepts):
                continue
            overlaps.append(_overlap(one.concepts, list(shown), len(one.concepts)))
            orders.append(np.mean([_overlap(one.concepts, list(shown), d + 1) for d in range(len(one.concepts))]))
            for concept, contribution, expected_map in zip(one.concepts, one.contributions, one.maps, strict=True):
                # A concept that is no longer shown contributes nothing that anybody sees.
                got, got_map = shown.get(int(concept), (0.0, np.zeros_like(expected_map)))
                error = abs(got - float(contribution))
                errors.append(error if np.isfinite(error) else np.inf)
                cosines.append(_cosine(got_map, expected_map))
    return ExplanationFidelity(
        pictures=len(expected),
        class_agreement=same / len(expected),
        top5_overlap=float(np.mean(overlaps)) if overlaps else 1.0,
        top5_order=float(np.mean(orders)) if orders else 1.0,
        map_cosine=float(np.mean(cosines)) if cosines else 1.0,
        lowest_map_cosine=float(np.min(cosines)) if cosines else 1.0,
        largest_contribution_error=float(np.max(errors)),
    )


def compare_places(
    session: Session,
    model: SalfModel,
    pictures: Pictures,
    *,
    concepts: tuple[str, ...],
    preparation: Preparation,
) -> tuple[float, float] | None:
    """Play the pointing game with the maps of both, over every visible concept that has a mask.

    Args:
        session: of an all-maps graph.
        model: in evaluation mode.
        pictures: with or without masks.
        concepts: M names, in index order.
        preparation: of the pictures.

    Returns:
        Shares of maps whose maximum lies on the concept: of the session, and of the PyTorch model; None without masks
        of any concept that the model knows.
    """
    masked = pictures.masked
    if masked is None:
        return None
    index = {name: place for place, name in enumerate(concepts)}
    size = compared_size(preparation)
    ours: list[bool] = []
    theirs: list[bool] = []
    for start in range(0, len(pictures), LARGEST_BATCH):
        pixels = pictures.pixels[start : start + LARGEST_BATCH]
        with torch.inference_mode():
            expected = model.concept_maps(model.features(torch.from_numpy(pixels))).numpy()
        maps = session.run({IMAGE_INPUT.name: pixels})["all_maps"]
        for row in range(len(pixels)):
            masks = masked.masks(start + row, size).concepts
            ours += _hits(masks, maps[row], index)
            theirs += _hits(masks, expected[row], index)
    return (float(np.mean(ours)), float(np.mean(theirs))) if ours else None


def _hits(masks: Mapping[str, NDArray[np.bool_]], maps: NDArray[np.generic], index: Mapping[str, int]) -> list[bool]:
    """Whether each visible concept's map has its maximum on the concept: masks BOOL [H,W], maps FP32 [M,h,w]."""
    cases = pointing_cases([masks], concepts=index, deciding=lambda _picture, _name: True)
    hits: list[bool] = pointing_hits(cases, lambda _picture, concept: maps[concept].astype(np.float32)).tolist()
    return hits


def compare_with_source(
    explain: Session, all_maps: Session, source: Checkpoint, pictures: Pictures, top: int
) -> ExplanationFidelity:
    """Everything that held-out pictures can tell, the places included where they have masks.

    Args:
        explain: session of an explain graph.
        all_maps: session of an all-maps graph.
        source: what both were exported from.
        pictures: that the export was not calibrated on.
        top: slots of the explanation.
    """
    expected = explain_with_torch(source.model, pictures.pixels, top=top)
    figures = compare_explanations(explain, pictures.pixels, expected)
    places = compare_places(
        all_maps, source.model, pictures, concepts=source.concepts, preparation=source.card.preparation
    )
    if places is None:
        return figures
    return figures.model_copy(update={"pointing": places[0], "pointing_source": places[1]})


def _shown(answer: Mapping[str, NDArray[np.generic]]) -> dict[int, tuple[float, NDArray[np.generic]]]:
    """Concept -> contribution and map, in the order shown."""
    return {
        int(concept): (float(answer["top_contributions"][slot]), answer["top_maps"][slot])
        for slot, concept in enumerate(answer["top_concepts"])
        if concept != NO_CONCEPT
    }


def _overlap(expected: NDArray[np.int64], shown: list[int], depth: int) -> float:
    return len(set(expected[:depth].tolist()) & set(shown[:depth])) / depth


def _cosine(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Cosine of two maps; 1 if both are zero, 0 if one is or holds what is no number."""
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths > 0 and np.isfinite(lengths):
        return float(a @ b / lengths)
    return 1.0 if not a.any() and not b.any() else 0.0
