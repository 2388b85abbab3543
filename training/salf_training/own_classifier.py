"""The backbone's own classifier, which a SALF-CBM is compared with: from its weight file, or a linear probe."""

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from salf_training.head import Head, fit_head
from salf_training.score_tables import column_statistics, fill_table, pieces, standardise
from salf_training.weights import read_weights

_logger = logging.getLogger(__name__)

_PROBE_PENALTY = 1e-4  # L2, on standardised features


def read_classifier(weights: Path, *, classes: int, channels: int) -> Head | None:
    """`classifier.weight` [K,C] and `classifier.bias` [K] of a weight file, if they are there and fit.

    Raises:
        WeightsError: the file cannot be read.
    """
    state = read_weights(weights)
    weight, bias = state.get("classifier.weight"), state.get("classifier.bias")
    if weight is None or bias is None:
        return None
    if weight.shape != (classes, channels) or bias.shape != (classes,):
        # Many timm networks call their classifier so; theirs is for other classes.
        _logger.warning(
            "the classifier in %s is for other classes (shape %s, expected %s): fitting one instead",
            weights,
            tuple(weight.shape),
            (classes, channels),
        )
        return None
    return Head(weight, bias)


def fit_probe(pooled: Tensor, labels: NDArray[np.int64], *, classes: int, folder: Path, held_bytes: int) -> Head:
    """A linear probe, for backbones that were not trained on these classes.

    Args:
        pooled: FP32 [N,C].
        labels: INT64 [N].
        classes: K.
        folder: for a table that is too large to be held.
        held_bytes: largest table that is held.

    Returns:
        On features as they are: weight FP32 [K,C], bias FP32 [K].
    """
    mean, std = column_statistics(pooled)
    std = std.clamp_min(1e-9)
    table = fill_table(pieces(pooled), count=len(pooled), columns=pooled.shape[1], folder=folder, held_bytes=held_bytes)
    probe = fit_head(
        standardise(table, mean, std), torch.from_numpy(labels), classes=classes, l1=0.0, l2=_PROBE_PENALTY
    )
    weight = probe.weight.double() / std
    return Head(weight.float(), (probe.bias - weight @ mean).float())
