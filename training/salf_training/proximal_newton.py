"""Few weights for each class: proximal Newton steps, each of which costs two passes over the scores.

The loss's curvature is taken class by class, with the classes' influence on each other left out (block Jacobi), and
only for the weights that are in use or want to be: K small matrices. The penalised quadratic problems that they make
are solved by coordinate descent (Friedman, Hastie & Tibshirani, "Regularization paths for generalized linear models via
coordinate descent", 2010), for all classes at once. A step that does not bring what it promised is taken anew with
larger curvatures. The gradient of all weights is known after every step, so the result is that of the whole problem.
Where a few steps do not end the fit, the classes pull too hard at each other, and the other method takes over.
Weights, softmax and sums over pieces are FP64; products run in the precision of the scores.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from salf_training.penalised_loss import Objective, ScoreTable

#: Most weights of a class that this method moves at once: K matrices of its square are held.
WIDEST = 256

_NEWCOMERS = 8  # weights that a class may take in beside as many as it has; early gradients name far too many
_SWEEPS = 30  # of the coordinate descent
_SETTLED = 0.01  # of the first sweep's largest move: a sweep that moves less is the last one
_DAMPING = 1e-6  # added to all curvatures: a class without pictures would want a bias of minus infinity
_SUFFICIENT = 0.25  # share of the promised decrease that a step must bring
_BOLDER = 1.2  # by how much less the curvatures are enlarged after a step that brought it
_ROUNDING = 1e-12  # of a decrease, where FP32 products are summed
_ATTEMPTS = 12
_MOST_STEPS = 30
_UNSEEN = 10  # times the squared precision of the scores: a decrease that is lost in the gradient's rounding


@dataclass(frozen=True)
class Reached:
    """Where the steps led.

    Attributes:
        weight: FP64 [K,M+1], weights and bias.
        iterations: steps taken.
        ended: the tolerance was met; False: too many steps or too many weights for this method.
    """

    weight: Tensor
    iterations: int
    ended: bool


@dataclass(frozen=True)
class _WorkingSet:
    """The weights that may move.

    Attributes:
        places: INT64 [K,S], their columns among the M+1; the first is the bias.
        valid: BOOL [K,S]; the rest fills the rows up.
        complete: no weight outside wants to move.
    """

    places: Tensor
    valid: Tensor
    complete: bool


def minimise_by_newton(
    table: ScoreTable, start: Tensor, objective: Objective, *, tolerance: float, max_iterations: int
) -> Reached:
    """Minimise the objective, as far as the classes' weights stay few.

    Args:
        table: scores and labels.
        start: FP64 [K,M+1], weights and bias; zero outside the support.
        objective: the penalties.
        tolerance: largest change of any weight in one iteration at which the fit ends.
        max_iterations: it ends here at the latest.
    """
    weight, nothing = start, _UNSEEN * torch.finfo(table.dtype).eps ** 2
    _, gradient = _moved(table, weight, torch.zeros_like(weight))
    caution = 1.0
    steps = min(_MOST_STEPS, max_iterations)
    for iteration in range(steps):
        working = _working_set(weight, gradient, objective)
        if working is None:
            return Reached(weight, iteration, ended=False)
        here, slope = weight.gather(1, working.places), gradient.gather(1, working.places)
        curvature = _curvature(table, weight, working)
        for _ in range(_ATTEMPTS):
            there = _coordinate_descent(caution * curvature, slope, here, objective, working.valid)
            change = torch.zeros_like(weight).scatter_add_(1, working.places, there - here)
            penalty_rise = _penalty_rise(weight, change, objective)
            promised = float((gradient * change).sum()) + penalty_rise
            rise, gradient_there = _moved(table, weight, change)
            if rise + penalty_rise <= _SUFFICIENT * promised + _ROUNDING:
                break
            caution *= 2
        else:
            return Reached(weight, iteration + 1, ended=False)
        weight, gradient, caution = weight + change, gradient_there, max(1.0, caution / _BOLDER)
        if working.complete and (float(change.abs().max()) < tolerance or promised > -nothing):
            return Reached(weight, iteration + 1, ended=True)
    return Reached(weight, steps, ended=False)


def _moved(table: ScoreTable, weight: Tensor, change: Tensor) -> tuple[float, Tensor]:
    """How much the mean cross-entropy rises by a change of the weights, and its gradient there, FP64 [K,M+1]."""
    used = ((weight != 0) | (change != 0))[:, :-1].any(dim=0).nonzero()[:, 0]
    both = torch.cat([weight, change]).to(table.dtype)
    rise, total = 0.0, torch.zeros_like(weight)
    for rows, piece in table.row_pieces():
        products = torch.addmm(both[:, -1], piece[:, used], both[:, used].T).double()
        before, by = products.chunk(2, dim=1)
        own = torch.arange(len(piece)), table.labels[rows]
        after = before + by
        normaliser = after.logsumexp(dim=1, keepdim=True)
        rise += float((normaliser[:, 0] - before.logsumexp(dim=1) - by[own]).sum())
        error = (after - normaliser).exp()
        error[own] -= 1
        total[:, :-1] += error.to(piece.dtype).T @ piece
        total[:, -1] += error.sum(dim=0)
    return rise / table.count, total / table.count


def _working_set(weight: Tensor, gradient: Tensor, objective: Objective) -> _WorkingSet | None:
    """The weights in use and those whose gradient outweighs the L1 penalty, the strongest first; None: too many."""
    values = weight[:, :-1]
    used = values != 0
    excess = gradient[:, :-1].abs() - objective.l1
    wants = used | (excess > 0)
    if objective.support is not None:
        wants = wants & objective.support
    count, room = wants.sum(dim=1), wants.sum(dim=1)
    if objective.l1 > 0:
        room = torch.minimum(room, 2 * used.sum(dim=1) + _NEWCOMERS)
    most = int(room.max())
    if most > WIDEST:
        return None
    urgency = torch.where(used, torch.inf, excess).masked_fill(~wants, -torch.inf)
    places = urgency.topk(most, dim=1).indices
    bias = torch.full((len(weight), 1), values.shape[1])
    valid = torch.arange(most) < room[:, None]
    return _WorkingSet(
        places=torch.cat([bias, places], dim=1),
        valid=torch.cat([torch.ones_like(bias, dtype=torch.bool), valid], dim=1),
        complete=bool((room == count).all()),
    )


def _curvature(table: ScoreTable, weight: Tensor, working: _WorkingSet) -> Tensor:
    """Second derivatives of the mean cross-entropy within each class's working set, FP64 [K,S,S]."""
    moving = working.places[working.valid].unique()[:-1]  # without the bias, which is the last
    slots = torch.searchsorted(moving, working.places)  # the bias comes after all of them
    of_class = [row[valid] for row, valid in zip(slots, working.valid, strict=True)]
    narrow = weight.to(table.dtype)
    used = weight[:, :-1].any(dim=0).nonzero()[:, 0]
    total = torch.zeros(*working.places.shape, working.places.shape[1], dtype=table.dtype)
    for _, piece in table.row_pieces():
        share = torch.addmm(narrow[:, -1], piece[:, used], narrow[:, used].T).softmax(dim=1)
        spread = (share * (1 - share)).T.contiguous()
        columns = torch.cat([piece[:, moving].T, torch.ones(1, len(piece), dtype=piece.dtype)])
        for matrix, own, scale in zip(total, of_class, spread, strict=True):
            its = columns[own]
            matrix[: len(own), : len(own)] += (its * scale) @ its.T
    return total.double() / table.count


def _coordinate_descent(curvature: Tensor, slope: Tensor, begin: Tensor, objective: Objective, valid: Tensor) -> Tensor:
    """Minimise slope . d + d' curvature d / 2 + penalties of begin + d, for each class: FP64 [K,S].

    Args:
        curvature: FP64 [K,S,S]; changed in place.
        slope: FP64 [K,S].
        begin: FP64 [K,S]; the first column is the bias, which has no penalty.
        objective: the penalties.
        valid: BOOL [K,S]; the others stay.
    """
    curvature.diagonal(dim1=1, dim2=2).add_(_DAMPING)
    by_column = curvature.permute(2, 0, 1).contiguous()
    own = curvature.diagonal(dim1=1, dim2=2).T.contiguous()
    allowed = valid.T.double().contiguous()
    at, slope = begin.T.contiguous(), slope.clone()
    first_move = 0.0
    for sweep in range(_SWEEPS):
        largest = torch.zeros(len(begin), dtype=torch.float64)
        for column, (mine, free) in enumerate(zip(own, allowed, strict=True)):
            l1, l2 = (objective.l1, objective.l2) if column else (0.0, 0.0)
            aim = mine * at[column] - slope[:, column]
            new = torch.nn.functional.softshrink(aim, l1) / (mine + l2)
            move = (new - at[column]) * free
            at[column] += move
            slope += move[:, None] * by_column[column]
            largest = torch.maximum(largest, move.abs())
        moved = float(largest.max())
        first_move = first_move if sweep else moved
        if moved <= _SETTLED * first_move:
            break
    return at.T


def _penalty_rise(weight: Tensor, change: Tensor, objective: Objective) -> float:
    before, by = weight[:, :-1], change[:, :-1]
    return float((objective.l1 * ((before + by).abs() - before.abs()) + objective.l2 * by * (before + by / 2)).sum())
