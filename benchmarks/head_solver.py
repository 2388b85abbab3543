"""How long the sparse head takes, against scikit-learn's saga, to the same objective on the same cores.

Both start from zero, get the same FP32 scores, the same penalty and two threads. The best objective is that of our
solver run to a tolerance of 1e-8, or saga's if it should get lower; a solver has reached it when it is within a
thousandth of it. Both solvers are deterministic, so a fit of n iterations (epochs, for saga) passes through those of
fewer. Ours is timed with the fewest iterations that reach the objective, to an eighth. An epoch of saga takes seconds,
so its epochs are only doubled, and the speed-up counts the last fit that had NOT reached the objective: saga needs at
least that long.
"""

import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.report import CannotMeasureError, Result
from salf_training.head import Head, fit_head

ALPHA, WITHIN, THREADS = 0.99, 1e-3, 2
_MOST_ITERATIONS = 1024


@dataclass(frozen=True)
class Problem:
    """Scores FP32 [N,M], labels INT64 [N] of K classes, and lambda."""

    scores: Tensor
    labels: Tensor
    classes: int
    lam: float

    def objective(self, head: Head) -> float:
        """The head's objective, FP64."""
        weight, bias = head.weight.double(), head.bias.double()
        loss = F.cross_entropy(self.scores.double() @ weight.T + bias, self.labels)
        penalty = ALPHA * weight.abs().sum() + (1 - ALPHA) / 2 * weight.square().sum()
        return float(loss + self.lam * penalty)


@dataclass(frozen=True)
class Bracket:
    """The most iterations known not to reach the objective, the fewest known to, and the objective of the latter."""

    not_yet: int
    reached: int
    objective: float


def measure(*, quick: bool = False) -> Result:
    """Time both solvers: 10,000 pictures x 1,000 concepts x 50 classes (quick: 1,000 x 100 x 10).

    Raises:
        CannotMeasureError: a solver does not reach the objective, or the fitted head is empty.
    """
    torch.set_num_threads(THREADS)
    problem = make_problem(1000, 100, 10) if quick else make_problem(10_000, 1000, 50)
    tight = _ours(problem, 20_000, tolerance=1e-8)
    if tight.concepts_per_class < 1:
        raise CannotMeasureError("the fitted head is empty: there is nothing to compare")
    best = problem.objective(tight)
    target = best * (1 + WITHIN)
    ours = bracket(lambda count: _ours(problem, count), problem, target, narrow_to=1 / 8)
    saga = bracket(lambda count: _saga(problem, count), problem, target, narrow_to=1)
    ours_s = [_seconds(lambda: _ours(problem, ours.reached)) for _ in range(3)]
    saga_s = [_seconds(functools.partial(_saga, problem, count)) for count in (saga.not_yet, saga.reached)]
    best = min(best, saga.objective)
    return Result(
        name="head_solver",
        runs={
            "rounds": "ours 3, saga 1 on either side of the objective",
            "interleaved": "no: one solver after the other",
            "threads": THREADS,
            "shapes": f"N={len(problem.scores)} M={problem.scores.shape[1]} K={problem.classes}",
            "target": f"objective within {WITHIN:g} of the best",
        },
        figures={
            "speedup_over_saga": saga_s[0] / float(np.median(ours_s)),
            "objective_gap": (ours.objective - best) / best,
        },
        spread={"speedup_over_saga": (saga_s[0] / max(ours_s), saga_s[1] / min(ours_s))},
        notes={
            "ours_s": float(np.median(ours_s)),
            "ours_iterations": ours.reached,
            "saga_not_yet_s": saga_s[0],
            "saga_not_yet_epochs": saga.not_yet,
            "saga_reached_s": saga_s[1],
            "saga_reached_epochs": saga.reached,
            "saga_gap": (saga.objective - best) / best,
            "best_objective": best,
            "concepts_per_class": tight.concepts_per_class,
        },
    )


def make_problem(count: int, concepts: int, classes: int, *, lam: float = 3e-3) -> Problem:
    """Scores that correlate as concepts do (512 features of falling strength), labels that few concepts decide."""
    generator = torch.Generator().manual_seed(0)
    channels = min(512, 2 * concepts)
    strength = torch.arange(1, channels + 1).float() ** -0.5
    features = torch.randn(count, channels, generator=generator) * strength
    scores = features @ torch.randn(channels, concepts, generator=generator)
    scores = (scores - scores.mean(dim=0)) / scores.std(dim=0)
    truth = torch.zeros(classes, concepts)
    for row in truth:
        row[torch.randperm(concepts, generator=generator)[:8]] = torch.randn(8, generator=generator)
    labels = (2 * scores @ truth.T + torch.randn(count, classes, generator=generator)).argmax(dim=1)
    labels[:classes] = torch.arange(classes)
    return Problem(scores.contiguous(), labels, classes, lam)


def bracket(fit: Callable[[int], Head], problem: Problem, target: float, *, narrow_to: float) -> Bracket:
    """Find how many iterations reach the target: by doubling, then by halving while the gap is above `narrow_to`.

    Raises:
        CannotMeasureError: even the most iterations do not get there.
    """
    low, high = 0, 1
    while (objective := problem.objective(fit(high))) > target:
        low, high = high, 2 * high
        if high > _MOST_ITERATIONS:
            raise CannotMeasureError(f"a solver does not reach the objective {target:.6g} in {low} iterations")
    while high - low > max(1, narrow_to * high):
        middle = (low + high) // 2
        reached = problem.objective(fit(middle))
        if reached > target:
            low = middle
        else:
            high, objective = middle, reached
    return Bracket(max(low, 1), high, objective)


def _seconds(fit: Callable[[], Head]) -> float:
    start = time.perf_counter()
    fit()
    return time.perf_counter() - start


def _ours(problem: Problem, iterations: int, *, tolerance: float = 1e-9) -> Head:
    return fit_head(
        problem.scores,
        problem.labels,
        classes=problem.classes,
        l1=problem.lam * ALPHA,
        l2=problem.lam * (1 - ALPHA),
        tolerance=tolerance,
        max_iterations=iterations,
    )


def _saga(problem: Problem, epochs: int) -> Head:
    # scikit-learn minimises C * (sum of losses) + penalty; ours is the mean loss + lambda * penalty.
    solver = LogisticRegression(
        solver="saga",
        l1_ratio=ALPHA,
        C=1 / (problem.lam * len(problem.scores)),
        max_iter=epochs,
        tol=1e-12,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # that is how it says that it used all its epochs
        solver.fit(problem.scores.numpy(), problem.labels.numpy())
    return Head(torch.from_numpy(solver.coef_), torch.from_numpy(solver.intercept_))
