"""How long the sparse head takes, against scikit-learn's saga, to the same objective on the same cores.

Both start from zero, get the same FP32 scores, the same penalty and two threads. The best objective is that of our
solver run until nothing is left to gain, or saga's if it should get lower; a solver has reached it when it is within a
thousandth of it. Both solvers are deterministic, so a fit of n iterations (epochs, for saga) passes through those of
fewer, and ours is timed with the fewest iterations that reach the objective.
An epoch of saga takes seconds, so its epochs are only doubled, up to 256, and the speed-up counts the most epochs that
did NOT reach the objective: saga needs at least that many. Each of its fits is a round, with one of ours before and one
after it. An epoch's work is always the same, so every round tells what an epoch costs, beside what our fit costs.
"""

import functools
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.report import CannotMeasureError, Result
from salf_training.head import Head, fit_head

ALPHA, WITHIN, THREADS = 0.99, 1e-3, 2
_MOST_ITERATIONS, _MOST_EPOCHS = 1024, 256
_FIRST_EPOCHS = 4  # fits of fewer say little about what an epoch costs


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
class Cost:
    """Seconds on the clock and seconds of the processor."""

    clock_s: float
    processor_s: float


@dataclass(frozen=True)
class Round:
    """One fit of saga and the mean of ours before and after it."""

    epochs: int
    objective: float
    saga: Cost
    ours: Cost


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
    iterations = fewest_iterations(lambda count: _ours(problem, count), problem, target)
    rounds = saga_rounds(problem, target, iterations)
    reached, not_yet = rounds[-1], rounds[-2].epochs
    best = min(best, reached.objective)
    clock = [one.saga.clock_s / one.epochs * not_yet / one.ours.clock_s for one in rounds]
    processor = [one.saga.processor_s / one.epochs * not_yet / one.ours.processor_s for one in rounds]
    return Result(
        name="head_solver",
        runs={
            "rounds": f"{len(rounds)}: one fit of saga each, ours before and after it",
            "interleaved": "yes",
            "threads": THREADS,
            "shapes": f"N={len(problem.scores)} M={problem.scores.shape[1]} K={problem.classes}",
            "target": f"objective within {WITHIN:g} of the best",
        },
        figures={
            "speedup_over_saga": statistics.median(clock),
            "speedup_over_saga_processor": statistics.median(processor),
            "objective_gap": (problem.objective(_ours(problem, iterations)) - best) / best,
        },
        spread={
            "speedup_over_saga": (min(clock), max(clock)),
            "speedup_over_saga_processor": (min(processor), max(processor)),
        },
        notes={
            "ours_s": statistics.median(one.ours.clock_s for one in rounds),
            "ours_iterations": iterations,
            "saga_epoch_s": statistics.median(one.saga.clock_s / one.epochs for one in rounds),
            "saga_not_yet_epochs": not_yet,
            "saga_not_yet_gap": (rounds[-2].objective - best) / best,
            "saga_reached_epochs": reached.epochs,
            "saga_reached_gap": (reached.objective - best) / best,
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


def fewest_iterations(fit: Callable[[int], Head], problem: Problem, target: float) -> int:
    """How many iterations reach the target: by doubling, then by halving.

    Raises:
        CannotMeasureError: even the most iterations do not get there.
    """
    low, high = 0, 1
    while problem.objective(fit(high)) > target:
        low, high = high, 2 * high
        if high > _MOST_ITERATIONS:
            raise CannotMeasureError(f"our solver does not reach the objective {target:.6g} in {low} iterations")
    while high - low > 1:
        middle = (low + high) // 2
        if problem.objective(fit(middle)) > target:
            low = middle
        else:
            high = middle
    return high


def saga_rounds(problem: Problem, target: float, iterations: int) -> list[Round]:
    """Fits of saga of doubling length, the last of which alone reaches the target, each between two of ours.

    Raises:
        CannotMeasureError: saga reaches it at once, or not at all.
    """
    rounds: list[Round] = []
    _, before = _timed(lambda: _ours(problem, iterations))
    epochs = _FIRST_EPOCHS
    while not rounds or rounds[-1].objective > target:
        if epochs > _MOST_EPOCHS:
            raise CannotMeasureError(f"saga does not reach the objective {target:.6g} in {_MOST_EPOCHS} epochs")
        head, saga = _timed(functools.partial(_saga, problem, epochs))
        _, after = _timed(lambda: _ours(problem, iterations))
        ours = Cost((before.clock_s + after.clock_s) / 2, (before.processor_s + after.processor_s) / 2)
        rounds.append(Round(epochs, problem.objective(head), saga, ours))
        before, epochs = after, 2 * epochs
    if len(rounds) == 1:
        raise CannotMeasureError(f"saga reaches the objective {target:.6g} in {_FIRST_EPOCHS} epochs: too easy")
    return rounds


def _timed(fit: Callable[[], Head]) -> tuple[Head, Cost]:
    clock, processor = time.perf_counter(), time.process_time()
    head = fit()
    return head, Cost(time.perf_counter() - clock, time.process_time() - processor)


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
