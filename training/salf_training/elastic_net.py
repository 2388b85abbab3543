"""Multinomial logistic regression with an elastic-net penalty, minimised on scores that need not fit in memory.

Two methods share the work. Where each class may use a few hundred concepts at most, Newton steps need few passes over
the scores; a dense head of many concepts would need matrices that are too large, and gets there by gradients.
"""

from torch import Tensor

from salf_training.accelerated_gradient import minimise_by_gradients
from salf_training.penalised_loss import Objective, ScoreTable
from salf_training.proximal_newton import minimise_by_newton


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
    reached = minimise_by_newton(table, start, objective, tolerance=tolerance, max_iterations=max_iterations)
    left = max_iterations - reached.iterations
    if reached.ended or left == 0:
        return reached.weight
    return minimise_by_gradients(table, reached.weight, objective, tolerance=tolerance, max_iterations=left)
