"""The sparse head: multinomial logistic regression with an elastic-net penalty, from dense to sparse.

Objective: mean cross-entropy + lambda * (alpha * |W|_1 + (1 - alpha) / 2 * |W|_2^2); the bias is free.
Source: Wong et al., "Leveraging Sparse Linear Layers for Debuggable Deep Networks", ICML 2021. The solver (see
elastic_net) uses the full gradient and reaches the optimum that their stochastic solver approaches. Scores are a
tensor, or an array that is read piece by piece: a memory-mapped FP16 [N,M] of ImageNet's size is never held.
"""

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from salf_training.elastic_net import minimise
from salf_training.penalised_loss import Objective, Scores, ScoreTable
from salf_training.progress import Progress, silent

#: Pictures read at a time from an array of scores: 37 MB at 4,741 concepts.
PIECE_ROWS = 2048


class HeadTraining(BaseModel):
    """How the head is fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concepts_per_class: int = Field(default=5, ge=1, description="NEC of the head that goes into the checkpoint")
    curve: tuple[PositiveInt, ...] = Field(default=(1, 2, 3, 5, 10, 30), description="NECs reported in the model card")
    alpha: float = Field(default=0.99, gt=0, le=1, description="share of the L1 part")
    path_length: int = Field(default=25, ge=2, description="lambdas from the first non-zero weight downwards")
    lambda_ratio: float = Field(default=5e-3, gt=0, lt=1, description="smallest lambda / largest")
    refit_penalty: float = Field(default=1e-4, ge=0, description="L2 penalty of the refit on the chosen concepts")
    tolerance: float = Field(default=1e-5, gt=0, description="largest change of a weight at which a fit ends")
    max_iterations: int = Field(default=2000, ge=1)


@dataclass(frozen=True)
class Head:
    """logits = W z + b: weight [K,M], bias [K]."""

    weight: Tensor
    bias: Tensor

    @property
    def concepts_per_class(self) -> float:
        """NEC: non-zero weights / classes."""
        return float((self.weight != 0).sum()) / len(self.weight)


def fit_head(
    scores: Scores,
    labels: Tensor,
    *,
    classes: int,
    l1: float,
    l2: float,
    start: Head | None = None,
    support: Tensor | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
    piece_rows: int = PIECE_ROWS,
) -> Head:
    """Minimise the objective.

    Args:
        scores: z [N,M]: a tensor FP32 or FP64, or an array FP16, FP32 or FP64 that is read in pieces of `piece_rows`
            pictures and may be memory-mapped. Products run in its precision (FP16: FP32), weights are FP64.
        labels: INT64 [N].
        classes: K.
        l1: lambda * alpha.
        l2: lambda * (1 - alpha).
        start: where to begin; zeros by default.
        support: BOOL [K,M]; weights outside stay zero.
        tolerance: largest change of any weight in one iteration at which the fit ends.
        max_iterations: the fit ends here at the latest.
        piece_rows: pictures that are held at a time, if the scores are an array.

    Returns:
        The fitted head, FP64, or FP32 for scores of less precision.
    """
    table = ScoreTable(scores, labels, piece_rows=piece_rows)
    begin = torch.zeros(classes, table.concepts + 1, dtype=torch.float64)
    if start is not None:
        begin[:, :-1], begin[:, -1] = start.weight, start.bias
    objective = Objective(l1=l1, l2=l2, support=support)
    found = minimise(table, begin, objective, tolerance=tolerance, max_iterations=max_iterations).to(table.dtype)
    return Head(found[:, :-1].contiguous(), found[:, -1].contiguous())


def fit_path(
    scores: Scores,
    labels: Tensor,
    *,
    classes: int,
    settings: HeadTraining,
    on_progress: Progress = silent,
) -> list[Head]:
    """Heads from sparse to dense, each starting from the one before.

    Args:
        scores: z [N,M], as for `fit_head`.
        labels: INT64 [N].
        classes: K.
        settings: alpha, length and end of the path.
        on_progress: told after every head.
    """
    # A class without pictures would want a bias of minus infinity.
    shares = torch.bincount(labels, minlength=classes).double() / len(labels)
    best_bias = shares.clamp_min(0.5 / len(labels)).log()
    largest = _largest_lambda(scores, labels, best_bias) / settings.alpha
    empty = Head(torch.zeros(classes, scores.shape[1], dtype=torch.float64), best_bias)
    heads: list[Head] = []
    for index in range(settings.path_length):
        lam = largest * settings.lambda_ratio ** (index / (settings.path_length - 1))
        heads.append(
            fit_head(
                scores,
                labels,
                classes=classes,
                l1=lam * settings.alpha,
                l2=lam * (1 - settings.alpha),
                start=heads[-1] if heads else empty,
                tolerance=settings.tolerance,
                max_iterations=settings.max_iterations,
            )
        )
        on_progress("head", index + 1, settings.path_length)
    return heads


def _largest_lambda(scores: Scores, labels: Tensor, bias: Tensor) -> float:
    """Above this L1 penalty every weight is zero: the largest gradient at W = 0 with the best bias."""
    table = ScoreTable(scores, labels, piece_rows=PIECE_ROWS)
    gradient = table.gradient_at_zero(bias)
    return float(gradient.abs().max()) * (1 + 1e-9)


def head_with_nec(
    path: list[Head], concepts_per_class: int, *, scores: Scores, labels: Tensor, settings: HeadTraining
) -> Head:
    """A head in which no class has more than the wanted number of concepts.

    Starts from the first head of the path that has twice as many in every class (or at least as many, or the last one),
    then takes away each class's smallest weights a fifth at a time and fits the remaining ones again without the L1
    part (the relaxed elastic net, Meinshausen 2007). Fitting in between lets the concepts that stay take over from
    those that go.

    Args:
        path: heads from sparse to dense.
        concepts_per_class: most concepts of any class, 1 or more; the NEC is at most this.
        scores: z [N,M], as for `fit_head`.
        labels: INT64 [N].
        settings: penalty of the refit.
    """
    fewest = [int((head.weight != 0).sum(dim=1).min()) for head in path]
    enough = (at for need in (2 * concepts_per_class, concepts_per_class) for at, n in enumerate(fewest) if n >= need)
    head = path[next(enough, -1)]
    most = int((head.weight != 0).sum(dim=1).max())
    while most > concepts_per_class:
        most = max(concepts_per_class, int(0.8 * most))
        head = _refit(head, most, scores, labels, settings, tolerance=1e-4, max_iterations=200)
    return _refit(
        head,
        concepts_per_class,
        scores,
        labels,
        settings,
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
    )


def _refit(
    head: Head,
    most: int,
    scores: Scores,
    labels: Tensor,
    settings: HeadTraining,
    *,
    tolerance: float,
    max_iterations: int,
) -> Head:
    """Keep each class's `most` largest weights and fit those again under the L2 penalty alone."""
    strongest = head.weight.abs().topk(min(most, head.weight.shape[1]), dim=1).indices
    support = torch.zeros_like(head.weight, dtype=torch.bool).scatter_(1, strongest, value=True) & (head.weight != 0)
    return fit_head(
        scores,
        labels,
        classes=len(head.weight),
        l1=0.0,
        l2=settings.refit_penalty,
        start=Head(head.weight * support, head.bias),
        support=support,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
