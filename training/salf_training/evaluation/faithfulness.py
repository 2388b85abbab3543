"""Deletion and insertion: does the probability follow the pixels that a heatmap calls important?

Source: Petsiuk, Das & Saenko, "RISE", BMVC 2018. Deleted pixels become the mean colour of the training pictures;
insertion starts from the blurred picture.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from salf_contract import Preparation
from salf_training.evaluation.batching import batches
from salf_training.evaluation.document import Faithfulness
from salf_training.evaluation.explainers import POST_HOC, Explainer
from salf_training.evaluation.metrics import area_under
from salf_training.evaluation.places import over_picture
from salf_training.model import SalfModel
from salf_training.progress import Progress, silent

#: (pixels UINT8 [B,H,W,3]) -> probabilities FP32 [B,K].
Classifier = Callable[[Tensor], Tensor]


def ranks(heatmap: NDArray[np.float32], *, height: int, width: int) -> Tensor:
    """Rank of every pixel of a heatmap FP32 [h,w], the most important 0: INT64 [height,width]; ties by place."""
    placed = over_picture(heatmap, height=height, width=width)
    rank = np.empty(placed.size, dtype=np.int64)
    rank[np.argsort(-placed, axis=None, kind="stable")] = np.arange(placed.size)
    return torch.from_numpy(rank.reshape(height, width))


@torch.inference_mode()
def replacement_curve(
    classify: Classifier, start: Tensor, end: Tensor, rank: Tensor, target: int, *, steps: int
) -> NDArray[np.float64]:
    """Probability of a class while the pixels of one picture are replaced in the order of their ranks.

    Args:
        classify: what is asked.
        start: UINT8 [H,W,3], before.
        end: UINT8 [H,W,3], after.
        rank: INT64 [H,W].
        target: the class.
        steps: S.

    Returns:
        FP64 [S+1], with 0/S to S/S of the pixels replaced.
    """
    counts = torch.linspace(0, rank.numel(), steps + 1).round()
    replaced = rank[None] < counts[:, None, None]
    pictures = torch.where(replaced[..., None], end[None], start[None])
    return np.asarray(classify(pictures)[:, target].double().numpy())


def mean_colour(pixels: Tensor, pixel_mean: Tensor) -> Tensor:
    """A picture of the training pictures' mean colour: UINT8, like `pixels` [H,W,3]; pixel_mean FP32 [3] in 0..1."""
    return (pixel_mean * 255).round().to(torch.uint8).expand_as(pixels)


def blurred(pixels: Tensor) -> Tensor:
    """A picture of which colours are left and shapes are gone: UINT8 [H,W,3], a box as wide as a quarter of a side."""
    side = max(3, min(pixels.shape[:2]) // 4) | 1
    images = pixels.permute(2, 0, 1)[None].float()
    padded = F.pad(images, [side // 2] * 4, mode="replicate")
    smooth = F.avg_pool2d(padded, side, stride=1)[0].permute(1, 2, 0)
    return smooth.round().to(torch.uint8)


def faithfulness_curves(
    model: SalfModel,
    paths: Sequence[Path],
    methods: Mapping[str, Explainer],
    preparation: Preparation,
    *,
    count: int,
    steps: int,
    on_progress: Progress = silent,
) -> dict[str, Faithfulness]:
    """Mean curves of every method, for the class that the model predicts.

    Args:
        model: the SALF-CBM.
        paths: pictures; a seeded choice of them is looked at.
        methods: name -> explainer; post-hoc ones are judged by the backbone's own classifier, which they explain.
        preparation: the model's.
        count: most pictures.
        steps: of a curve.
        on_progress: told after every picture.
    """
    chosen = np.sort(np.random.default_rng(0).choice(len(paths), min(count, len(paths)), replace=False))
    curves: dict[str, list[NDArray[np.float64]]] = {method: [] for method in methods}

    def salf(pixels: Tensor) -> Tensor:
        return model.logits(model.scores(model.concept_maps(model.features(pixels)))).softmax(dim=1)

    def backbone(pixels: Tensor) -> Tensor:
        return model.classify(model.features(pixels)).softmax(dim=1)

    for pixels, done in batches([paths[index] for index in chosen], preparation):
        with torch.no_grad():  # captum differentiates with these targets, which inference mode would forbid
            targets = salf(pixels).argmax(dim=1)
        for method, explain in methods.items():
            classify = backbone if method in POST_HOC else salf
            for picture, target, heatmap in zip(pixels, targets.tolist(), explain(pixels, targets), strict=True):
                rank = ranks(heatmap, height=picture.shape[0], width=picture.shape[1])
                pairs = ((picture, mean_colour(picture, model.pixel_mean)), (blurred(picture), picture))
                both = [replacement_curve(classify, start, end, rank, target, steps=steps) for start, end in pairs]
                curves[method].append(np.stack(both))
        on_progress("faithfulness", done, len(chosen))
    return {
        method: _mean_curves(np.mean(found, axis=0), of_salf=method not in POST_HOC)
        for method, found in curves.items()
        if found
    }


def _mean_curves(pair: NDArray[np.float64], *, of_salf: bool) -> Faithfulness:
    """Deletion and insertion, FP64 [2,S+1]."""
    return Faithfulness(
        model="SALF-CBM" if of_salf else "backbone",
        deletion=tuple(pair[0].tolist()),
        insertion=tuple(pair[1].tolist()),
        deletion_area=area_under(pair[0]),
        insertion_area=area_under(pair[1]),
    )
