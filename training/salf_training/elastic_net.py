"""Multinomial logistic regression with an elastic-net penalty, minimised on scores that need not fit in memory.

The method is FISTA (Beck & Teboulle 2009) with three things that make it fast here:
- steps as long as the loss's curvature along the way allows (backtracking; Scheinberg, Goldfarb & Bai 2014), because
  the usual bound, half the largest eigenvalue of X'X / N, is far too careful when there are many classes;
- restarts when the momentum points uphill (O'Donoghue & Candes 2015);
- an active set: products run over the concepts that have a weight or want one; the others are looked at again after
  5, 10, 20, ... iterations and before the end, so that the result is that of the whole problem.
Weights and sums over pieces are FP64; products run in the precision of the scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: z [N,M]: a tensor (FP32, FP64) is used where it is; an array (FP16, FP32, FP64; memory-mapped) is read in pieces.
Scores: TypeAlias = Tensor | NDArray[Any]

_FIRST_LOOK = 5  # iterations until the active set is chosen again; the wait doubles each time
_GROWTH = 1.3  # of a step that was shorter than it had to be
_MARGIN = 0.9  # of the curvature that a step may use
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
class _Point:
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
        for first in range(0, self.count, self._piece_rows):
            rows = slice(first, min(first + self._piece_rows, self.count))
            piece = torch.from_numpy(np.array(self._scores[rows])).to(self.dtype)
            yield rows, piece if columns is None else piece[:, columns]

    def _resident(self, scores: Tensor, columns: Tensor | None) -> Tensor:
        if columns is None or len(columns) == self.concepts:
            return scores.to(self.dtype)
        if self._gathered is None or self._gathered[0] is not columns:
            self._gathered = (columns, scores[:, columns].to(self.dtype))
        return self._gathered[1]

    def point(self, weight: Tensor, columns: Tensor | None) -> _Point:
        """Weights with their logits, if the scores are resident."""
        if not self.resident:
            return _Point(weight, None)
        return _Point(weight, torch.cat([_logits(piece, weight) for _, piece in self.pieces(columns)]))

    def gradient(self, point: _Point, columns: Tensor | None, *, of: Tensor | None) -> Tensor:
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

    def divergence(self, here: _Point, there: _Point, columns: Tensor | None) -> float:
        """How far the mean cross-entropy at `there` lies above its tangent at `here`; never negative."""
        total = 0.0
        if here.logits is not None and there.logits is not None:
            total = _divergence(here.logits, there.logits - here.logits)
        else:
            for _, piece in self.pieces(columns):
                total += _divergence(_logits(piece, here.weight), _logits(piece, there.weight - here.weight))
        return total / self.count


def minimise(
    table: ScoreTable, start: Tensor, objective: Objective, *, tolerance: float, max_iterations: int
) -> Tensor:
    """Minimise the objective.

    Args:
        table: scores and labels.
        start: FP64 [K,M+1], weights and bias; zero outside the support.
        objective: the penalties.
        tolerance: largest change of any weight in one iteration at which the fit ends.
        max_iterations: it ends here at the latest.

    Returns:
        FP64 [K,M+1]: weights and bias.
    """
    full = start.clone()
    allowed = objective.support
    if allowed is None:
        allowed = torch.ones(len(full), table.concepts, dtype=torch.bool)
    active = _wanted(table, full, full, objective, allowed, slack=0.0)
    before = current = table.point(_narrow(full, active), active)
    momentum, ratio, step = 1.0, 0.0, 2.0
    look_at, wait = _FIRST_LOOK, _FIRST_LOOK
    for iteration in range(1, max_iterations + 1):
        ahead = _blend(current, before, ratio)
        gradient = table.gradient(ahead, active, of=active)
        while True:
            following = table.point(_shrunk(ahead.weight - step * gradient, step, objective, active, allowed), active)
            moved = float((following.weight - ahead.weight).square().sum())
            curvature = 2 * table.divergence(ahead, following, active) / moved if moved > 0 else 0.0
            if curvature * step <= 1:
                break
            step = min(step / 2, _MARGIN / curvature)
        change = following.weight - current.weight
        if ((ahead.weight - following.weight) * change).sum() > 0:  # the momentum points uphill
            momentum = 1.0
        next_step = step * _GROWTH if curvature * step * _GROWTH < _MARGIN else step
        next_momentum = (1 + (1 + 4 * momentum * momentum * step / next_step) ** 0.5) / 2
        ratio = (momentum - 1) / next_momentum
        before, current, momentum, step = current, following, next_momentum, next_step
        ended = float(change.abs().max()) < tolerance
        if ended or iteration == look_at:
            wide, wide_before = _widened(current, active, full.shape), _widened(before, active, full.shape)
            chosen = _wanted(table, wide, wide_before, objective, allowed, slack=tolerance / step if ended else 0.0)
            if ended and not _adds(chosen, active):
                break
            look_at, wait = iteration + 2 * wait, 2 * wait
            before, current, active = _regrouped(wide_before, before, chosen), _regrouped(wide, current, chosen), chosen
    return _widened(current, active, full.shape)


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


def _shrunk(weight: Tensor, step: float, objective: Objective, active: Tensor | None, allowed: Tensor) -> Tensor:
    """The penalties' proximal step; the bias is left alone."""
    values = weight[:, :-1]
    small = values.sign() * (values.abs() - step * objective.l1).clamp_min(0) / (1 + step * objective.l2)
    if objective.support is not None:
        small = small * (allowed if active is None else allowed[:, active])
    return torch.cat([small, weight[:, -1:]], dim=1)


def _blend(current: _Point, before: _Point, ratio: float) -> _Point:
    """Current plus momentum; logits are linear in the weights, so they need no product."""
    weight = current.weight + ratio * (current.weight - before.weight)
    if current.logits is None or before.logits is None:
        return _Point(weight, None)
    return _Point(weight, current.logits + ratio * (current.logits - before.logits))


def _wanted(
    table: ScoreTable, wide: Tensor, before: Tensor, objective: Objective, allowed: Tensor, *, slack: float
) -> Tensor | None:
    """Concepts that have a weight, or whose gradient outweighs the L1 penalty; None: (nearly) all."""
    used = ((wide[:, :-1] != 0) | (before[:, :-1] != 0)).any(dim=0)
    if objective.l1 == 0:
        used = used | allowed.any(dim=0)
    else:
        has_weight = used.nonzero()[:, 0]
        here = table.point(_narrow(wide, has_weight), has_weight)
        excess = table.gradient(here, has_weight, of=None)[:, :-1].abs() - objective.l1
        used = used | ((excess > slack) & allowed).any(dim=0)
    chosen = used.nonzero()[:, 0]
    return None if len(chosen) > 0.8 * table.concepts else chosen


def _adds(chosen: Tensor | None, active: Tensor | None) -> bool:
    """Whether the chosen concepts hold one that is not active."""
    if active is None:
        return False
    return chosen is None or not bool(torch.isin(chosen, active).all())


def _narrow(wide: Tensor, columns: Tensor | None) -> Tensor:
    return wide if columns is None else torch.cat([wide[:, columns], wide[:, -1:]], dim=1)


def _widened(point: _Point, columns: Tensor | None, shape: torch.Size) -> Tensor:
    if columns is None:
        return point.weight
    wide = torch.zeros(shape, dtype=point.weight.dtype)
    wide[:, columns] = point.weight[:, :-1]
    wide[:, -1] = point.weight[:, -1]
    return wide


def _regrouped(wide: Tensor, point: _Point, columns: Tensor | None) -> _Point:
    """The same point in other columns: those that left or came have zero weight, so the logits stay."""
    return _Point(_narrow(wide, columns), point.logits)
