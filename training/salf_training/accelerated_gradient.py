"""Many weights for each class: FISTA, whose steps cost one product of all scores each.

The method is FISTA (Beck & Teboulle 2009) with three things that make it fast here:
- steps as long as the loss's curvature along the way allows (backtracking; Scheinberg, Goldfarb & Bai 2014), because
  the usual bound, half the largest eigenvalue of X'X / N, is far too careful when there are many classes;
- restarts when the momentum points uphill (O'Donoghue & Candes 2015);
- an active set: products run over the concepts that have a weight or want one; the others are looked at again after
  5, 10, 20, ... iterations and before the end, so that the result is that of the whole problem.
Weights and sums over pieces are FP64; products run in the precision of the scores.
"""

import torch
from torch import Tensor

from salf_training.penalised_loss import Objective, Point, ScoreTable

_FIRST_LOOK = 5  # iterations until the active set is chosen again; the wait doubles each time
_GROWTH = 1.3  # of a step that was shorter than it had to be
_MARGIN = 0.9  # of the curvature that a step may use


def minimise_by_gradients(
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


def _shrunk(weight: Tensor, step: float, objective: Objective, active: Tensor | None, allowed: Tensor) -> Tensor:
    """The penalties' proximal step; the bias is left alone."""
    values = weight[:, :-1]
    small = values.sign() * (values.abs() - step * objective.l1).clamp_min(0) / (1 + step * objective.l2)
    if objective.support is not None:
        small = small * (allowed if active is None else allowed[:, active])
    return torch.cat([small, weight[:, -1:]], dim=1)


def _blend(current: Point, before: Point, ratio: float) -> Point:
    """Current plus momentum; logits are linear in the weights, so they need no product."""
    weight = current.weight + ratio * (current.weight - before.weight)
    if current.logits is None or before.logits is None:
        return Point(weight, None)
    return Point(weight, current.logits + ratio * (current.logits - before.logits))


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


def _widened(point: Point, columns: Tensor | None, shape: torch.Size) -> Tensor:
    if columns is None:
        return point.weight
    wide = torch.zeros(shape, dtype=point.weight.dtype)
    wide[:, columns] = point.weight[:, :-1]
    wide[:, -1] = point.weight[:, -1]
    return wide


def _regrouped(wide: Tensor, point: Point, columns: Tensor | None) -> Point:
    """The same point in other columns: those that left or came have zero weight, so the logits stay."""
    return Point(_narrow(wide, columns), point.logits)
