"""Multinomial logistic regression with an elastic-net penalty, minimised on scores that need not fit in memory.

Two methods share the work. Where the problem is large and each class uses a few hundred concepts at most, Newton steps
need few passes over the scores. Small problems, whose passes cost next to nothing, and dense heads, whose matrices
would be too large, get there by gradients.
"""

from torch import Tensor

from salf_training.accelerated_gradient import minimise_by_gradients
from salf_training.penalised_loss import Objective, ScoreTable
from salf_training.proximal_newton import minimise_by_newton

#: Pictures x concepts x classes from which on a pass over the scores costs more than a Newton step's own work.
LARGE = 10**8


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
    if table.count * table.concepts * len(start) < LARGE:
        return minimise_by_gradients(table, start, objective, tolerance=tolerance, max_iterations=max_iterations)
    reached = minimise_by_newton(table, start, objective, tolerance=tolerance, max_iterations=max_iterations)
    left = max_iterations - reached.iterations
    if reached.ended or left == 0:
        return reached.weight
    return minimise_by_gradients(table, reached.weight, objective, tolerance=tolerance, max_iterations=left)
