"""Accuracy of heads with 5 to 30 concepts per class and dense, fitted anew on given training pictures."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from salf_training.checkpoint import NecPoint
from salf_training.evaluation.document import RefittedHeads
from salf_training.head import Head, HeadTraining, fit_head, fit_path, head_with_nec
from salf_training.progress import Progress, silent

NECS = (5, 10, 15, 20, 25, 30)


def refit_heads(
    train: Tensor,
    train_labels: NDArray[np.int64],
    held_out: Tensor,
    labels: NDArray[np.int64],
    *,
    classes: int,
    settings: HeadTraining | None = None,
    on_progress: Progress = silent,
) -> RefittedHeads:
    """Fit heads on training scores and judge them by others.

    Args:
        train: z FP64 [N,M].
        train_labels: INT64 [N].
        held_out: z FP64 [P,M].
        labels: INT64 [P].
        classes: K.
        settings: of the path and the refits.
        on_progress: told after every head of the path.
    """
    settings = HeadTraining() if settings is None else settings
    targets = torch.from_numpy(train_labels)
    path = fit_path(train, targets, classes=classes, settings=settings, on_progress=on_progress)
    curve = []
    for wanted in NECS:
        head = head_with_nec(path, wanted, scores=train, labels=targets, settings=settings)
        curve.append(NecPoint(concepts_per_class=head.concepts_per_class, accuracy=_accuracy(head, held_out, labels)))
    dense = fit_head(
        train,
        targets,
        classes=classes,
        l1=0.0,
        l2=settings.refit_penalty,
        start=path[-1],
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
    )
    return RefittedHeads(training_pictures=len(train), curve=tuple(curve), dense=_accuracy(dense, held_out, labels))


def _accuracy(head: Head, scores: Tensor, labels: NDArray[np.int64]) -> float:
    predicted = (scores @ head.weight.T + head.bias).argmax(dim=1).numpy()
    return float((predicted == labels).mean())
