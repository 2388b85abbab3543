"""What the solvers minimise: cross-entropy with an elastic-net penalty, on scores that need not fit in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: z [N,M]: a tensor (FP32, FP64) is used where it is; an array (FP16, FP32, FP64; memory-mapped) is read in pieces.
Scores: TypeAlias = Tensor | NDArray[Any]

_SMALL = 0.1  # changes of a logit below which a series is more precise than expm1


@dataclass(frozen=True)
class Objective:
    """mean cross-entropy + l1 * |W|_1 + l2 / 2 * |W|_2^2, with a free bias.

    Attributes:
        l1: lambda * alpha.
        l2: lambda * (1 - alpha).
        support: BOOL [K,M]; weights outside stay zero. None: all may be used.
    """

    l1: float
    l2: float
    support: Tensor | None = None


@dataclass(frozen=True)
class Point:
    """Weights [K,A+1] FP64 of the active concepts and the bias, and their logits [N,K] where these are kept."""

    weight: Tensor
    logits: Tensor | None


class ScoreTable:
    """Scores and labels of N pictures, read whole or in pieces."""

    def __init__(self, scores: Scores, labels: Tensor, *, piece_rows: int) -> None:
        self.count, self.concepts = int(scores.shape[0]), int(scores.shape[1])
        self.labels = labels
        self.resident = isinstance(scores, Tensor)
        self._scores, self._piece_rows = scores, piece_rows
        double = scores.dtype in (torch.float64, np.dtype(np.float64))
        self.dtype = torch.float64 if double else torch.float32
        self._gathered: tuple[Tensor, Tensor] | None = None

    def pieces(self, columns: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        """(rows, scores FP32 or FP64 [n,A]) of the chosen concepts; None chooses all."""
        if isinstance(self._scores, Tensor):
            yield slice(0, self.count), self._resident(self._scores, columns)
            return
        for rows, piece in self.row_pieces():
            yield rows, piece if columns is None else piece[:, columns]

    def row_pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, scores FP32 or FP64 [n,M]) of all concepts, never all rows at once."""
        for first in range(0, self.count, self._piece_rows):
            rows = slice(first, min(first + self._piece_rows, self.count))
            piece = self._scores[rows]
            yield rows, (piece if isinstance(piece, Tensor) else torch.from_numpy(np.array(piece))).to(self.dtype)

    def _resident(self, scores: Tensor, columns: Tensor | None) -> Tensor:
        if columns is None or len(columns) == self.concepts:
            return scores.to(self.dtype)
        if self._gathered is None or self._gathered[0] is not columns:
            self._gathered = (columns, scores[:, columns].to(self.dtype))
        return self._gathered[1]

    def point(self, weight: Tensor, columns: Tensor | None) -> Point:
        """Weights with their logits, if the scores are resident."""
        if not self.resident:
            return Point(weight, None)
        return Point(weight, torch.cat([_logits(piece, weight) for _, piece in self.pieces(columns)]))

    def gradient(self, point: Point, columns: Tensor | None, *, of: Tensor | None) -> Tensor:
        """Gradient of the mean cross-entropy, FP64 [K,A'+1].

        Args:
            point: where, in the chosen concepts.
            columns: the chosen concepts.
            of: concepts whose gradient is wanted; None: of all.
        """
        wanted = self.concepts if of is None else len(of)
        total = torch.zeros(len(point.weight), wanted + 1, dtype=torch.float64)
        for rows, piece in self.pieces(of):
            if point.logits is not None:
                logits = point.logits[rows]
            elif of is columns:
                logits = _logits(piece, point.weight)
            else:
                chosen = piece if columns is None else piece[:, columns]
                logits = _logits(chosen, point.weight)
            error = torch.softmax(logits, dim=1)
            error[torch.arange(len(error)), self.labels[rows]] -= 1
            total[:, :-1] += error.T @ piece
            total[:, -1] += error.sum(dim=0)
        return total / self.count

    def gradient_at_zero(self, bias: Tensor) -> Tensor:
        """Gradient of the mean cross-entropy by the weights where all of them are zero: FP64 [K,M]; bias FP64 [K]."""
        nothing = torch.zeros(0, dtype=torch.int64)
        return self.gradient(self.point(bias[:, None], nothing), nothing, of=None)[:, :-1]

    def divergence(self, here: Point, there: Point, columns: Tensor | None) -> float:
        """How far the mean cross-entropy at `there` lies above its tangent at `here`; never negative."""
        total = 0.0
        if here.logits is not None and there.logits is not None:
            total = _divergence(here.logits, there.logits - here.logits)
        else:
            for _, piece in self.pieces(columns):
                total += _divergence(_logits(piece, here.weight), _logits(piece, there.weight - here.weight))
        return total / self.count


def _logits(piece: Tensor, weight: Tensor) -> Tensor:
    narrow = weight.to(piece.dtype)
    return torch.addmm(narrow[:, -1], piece, narrow[:, :-1].T)


def _divergence(logits: Tensor, change: Tensor) -> float:
    """Sum over pictures of logsumexp(a + d) - logsumexp(a) - softmax(a) . d, without cancellation: [N,K] each."""
    share = torch.softmax(logits, dim=1)
    # Centred by its mean under the softmax, the linear part vanishes and only positive terms are summed.
    centred = change - (share * change).sum(dim=1, keepdim=True)
    series = centred.square() * (0.5 + centred / 6 + centred.square() / 24 + centred**3 / 120)
    beyond = torch.where(centred.abs() < _SMALL, series, torch.expm1(centred.clamp_max(1)) - centred)
    small = (share * beyond).sum(dim=1).log1p()
    # Where a change is large nothing cancels, but the exponential could overflow.
    large = (logits + centred).logsumexp(dim=1) - logits.logsumexp(dim=1)
    return float(torch.where(centred.amax(dim=1) < 1, small, large).double().sum())
