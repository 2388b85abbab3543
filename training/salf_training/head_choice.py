"""The head that goes into the checkpoint, and the others that are reported beside it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from salf_training.checkpoint import NecPoint
from salf_training.head import Head, HeadTraining, fit_head, fit_path, head_with_nec
from salf_training.progress import Progress, silent
from salf_training.score_tables import Table, right_share


@dataclass(frozen=True)
class LabelledScores:
    """Standardised scores z [N,M] of pictures and their labels INT64 [N]."""

    scores: Table
    labels: NDArray[np.int64]

    def accuracy(self, head: Head) -> float:
        """Share of pictures that a head classifies right."""
        return right_share(self.scores, head.weight, head.bias, self.labels)


@dataclass(frozen=True)
class FittedHeads:
    """The chosen head (FP32), and what it and the others reached on held-out pictures.

    Weights are for the columns of the scores that the heads were fitted on.
    """

    chosen: Head
    accuracy: float
    curve: tuple[NecPoint, ...]
    dense_accuracy: float


def choose_heads(
    train: LabelledScores,
    held_out: LabelledScores,
    *,
    classes: int,
    settings: HeadTraining,
    dense: bool = False,
    lam: float | None = None,
    on_progress: Progress = silent,
) -> FittedHeads:
    """Fit the chosen head and the reported ones.

    Args:
        train: what heads are fitted on.
        held_out: what they are judged by.
        classes: K.
        settings: path, refit, and the numbers of concepts per class.
        dense: choose the head without a sparsity penalty.
        lam: choose the head of this lambda, as the elastic net leaves it (no refit); None: by concepts per class.
        on_progress: told after every head of the path, and after every sparse head.
    """
    labels = torch.from_numpy(train.labels)
    by_count = not dense and lam is None
    path: list[Head] = []
    if by_count or settings.curve:
        path = fit_path(train.scores, labels, classes=classes, settings=settings, on_progress=on_progress)

    def fitted(*, l1: float, l2: float, start: Head | None) -> Head:
        return fit_head(
            train.scores,
            labels,
            classes=classes,
            l1=l1,
            l2=l2,
            start=start,
            tolerance=settings.tolerance,
            max_iterations=settings.max_iterations,
        )

    dense_head = fitted(l1=0.0, l2=settings.refit_penalty, start=path[-1] if path else None)
    wanted = sorted({*settings.curve, *([settings.concepts_per_class] if by_count else [])})
    sparse: dict[int, Head] = {}
    for nec in wanted:
        sparse[nec] = head_with_nec([*path, dense_head], nec, scores=train.scores, labels=labels, settings=settings)
        on_progress("sparse heads", len(sparse), len(wanted))
    curve = [
        NecPoint(concepts_per_class=sparse[nec].concepts_per_class, accuracy=held_out.accuracy(sparse[nec]))
        for nec in settings.curve
    ]
    if dense:
        chosen = dense_head
    elif lam is not None:
        chosen = fitted(l1=lam * settings.alpha, l2=lam * (1 - settings.alpha), start=None)
    else:
        chosen = sparse[settings.concepts_per_class]
    return FittedHeads(
        chosen=Head(chosen.weight.float(), chosen.bias.float()),
        accuracy=held_out.accuracy(chosen),
        curve=tuple(curve),
        dense_accuracy=held_out.accuracy(dense_head),
    )
