"""The sparse head: the optimum, the path, the wanted number of concepts."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from head_problems import CLASSES, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from salf_training import elastic_net, penalised_loss, proximal_newton
from salf_training.head import Head, HeadTraining, fit_head, fit_path, head_with_nec
from salf_training.model import SalfModel

TIGHT = {"tolerance": 1e-9, "max_iterations": 20_000}


def objective(head: Head, scores: torch.Tensor, labels: torch.Tensor, l1: float, l2: float) -> float:
    loss = F.cross_entropy(scores @ head.weight.T + head.bias, labels)
    return float(loss + l1 * head.weight.abs().sum() + l2 / 2 * head.weight.square().sum())


@cache  # it takes seconds, and both methods are compared with it
def saga_head(seed: int, lam: float, alpha: float, **size: int) -> Head:
    """Scikit-learn minimises C * (sum of losses) + penalty; ours is the mean loss + lambda * penalty."""
    scores, labels = problem(seed, skew=1.5 * seed, **size)
    saga = LogisticRegression(solver="saga", l1_ratio=alpha, C=1 / (lam * len(scores)), max_iter=20_000, tol=1e-7)
    saga.fit(scores.numpy(), labels.numpy())
    return Head(torch.from_numpy(saga.coef_), torch.from_numpy(saga.intercept_))


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize(
    ("seed", "lam", "alpha", "size"),
    [
        (0, 0.1, 0.99, {}),
        (1, 0.01, 0.99, {}),
        (2, 0.01, 0.5, {}),
        (1, 0.003, 1.0, {}),
        (0, 0.02, 0.99, {"count": 60, "concepts": 150}),  # more concepts than pictures
        (0, 0.02, 0.1, {"count": 60, "concepts": 150}),
        (1, 0.3, 0.0, {"count": 60, "concepts": 150}),  # no L1 part: dense
    ],
)
def test_the_objective_is_that_of_scikit_learns_saga(seed, lam, alpha, size):
    scores, labels = problem(seed, skew=1.5 * seed, **size)
    l1, l2 = lam * alpha, lam * (1 - alpha)
    theirs = saga_head(seed, lam, alpha, **size)
    ours = fit_head(scores, labels, classes=CLASSES, l1=l1, l2=l2)
    reached, reference = (objective(head, scores, labels, l1, l2) for head in (ours, theirs))
    assert reached == pytest.approx(reference, rel=1e-3)
    assert reached <= reference + 1e-6
    assert reached < np.log(CLASSES), "a fit that stays at zero would be no fit"


@pytest.mark.usefixtures("either_method")
def test_a_ridge_problem_reaches_a_point_without_gradient():
    scores, labels = problem(3)
    head = fit_head(scores, labels, classes=CLASSES, l1=0.0, l2=0.05, **TIGHT)
    error = torch.softmax(scores @ head.weight.T + head.bias, dim=1) - F.one_hot(labels, CLASSES)
    assert (error.T @ scores / len(scores) + 0.05 * head.weight).abs().max() < 1e-6
    assert error.mean(dim=0).abs().max() < 1e-6, "the bias must not be penalised"


@pytest.mark.parametrize("skew", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(5))
def test_at_the_largest_lambda_all_weights_are_zero_and_at_the_next_some_are_not(seed, skew):
    scores, labels = problem(seed, skew=skew)
    path = fit_path(scores, labels, classes=CLASSES, settings=HeadTraining(path_length=15))
    assert not path[0].weight.any()
    assert path[1].weight.any()
    shares = F.one_hot(labels, CLASSES).double().mean(dim=0)
    assert torch.softmax(path[0].bias, dim=0).numpy() == pytest.approx(shares.numpy(), abs=1e-4)


def test_the_path_goes_from_sparse_to_dense():
    scores, labels = problem(5, count=400, concepts=12)
    path = fit_path(
        scores, labels, classes=CLASSES, settings=HeadTraining(path_length=12, lambda_ratio=1e-3, tolerance=1e-6)
    )
    necs = [head.concepts_per_class for head in path]
    # Single weights may leave on the way; the path as a whole must not turn back.
    assert all(later >= earlier - 0.5 for earlier, later in pairwise(necs))
    assert necs[0] == 0
    assert necs[-1] > 9
    sizes = [float(head.weight.abs().sum()) for head in path]
    assert sizes == sorted(sizes)


def test_progress_counts_every_head_of_the_path():
    told = []
    scores, labels = problem(0)
    fit_path(
        scores,
        labels,
        classes=CLASSES,
        settings=HeadTraining(path_length=3),
        on_progress=lambda *now: told.append(now),
    )
    assert told == [("head", 1, 3), ("head", 2, 3), ("head", 3, 3)]


@pytest.mark.parametrize("wanted", [1, 2, 3, 5, 8, 30])
def test_no_class_has_more_concepts_than_asked_for(wanted):
    scores, labels = problem(7, skew=1.0)
    settings = HeadTraining(path_length=20, lambda_ratio=1e-3)
    path = fit_path(scores, labels, classes=CLASSES, settings=settings)
    head = head_with_nec(path, wanted, scores=scores, labels=labels, settings=settings)
    per_class = (head.weight != 0).sum(dim=1)
    assert per_class.max() <= wanted
    assert head.concepts_per_class == pytest.approx(float(per_class.double().mean()))
    if wanted <= 5:
        assert per_class.min() == wanted, "enough informative concepts are there"


def test_a_refit_undoes_the_shrinkage_of_its_head():
    scores, labels = problem(8)
    settings = HeadTraining(path_length=20)
    path = fit_path(scores, labels, classes=CLASSES, settings=settings)
    refitted = head_with_nec(path, 2, scores=scores, labels=labels, settings=settings)
    loss = objective(refitted, scores, labels, 0.0, settings.refit_penalty)
    for head in path:
        cut = Head(head.weight * (refitted.weight != 0), head.bias)
        assert loss <= objective(cut, scores, labels, 0.0, settings.refit_penalty) + 1e-6


@pytest.mark.usefixtures("either_method")
def test_weights_outside_the_support_stay_zero_and_the_rest_is_optimal():
    scores, labels = problem(9)
    support = torch.rand(CLASSES, scores.shape[1], generator=torch.Generator().manual_seed(1)) < 0.4
    support[2] = False
    head = fit_head(scores, labels, classes=CLASSES, l1=0.0, l2=0.01, support=support, **TIGHT)
    assert not head.weight[~support].any()
    error = torch.softmax(scores @ head.weight.T + head.bias, dim=1) - F.one_hot(labels, CLASSES)
    gradient = error.T @ scores / len(scores) + 0.01 * head.weight
    assert gradient[support].abs().max() < 1e-6
    assert gradient[~support].abs().max() > 1e-3, "the support must have kept something out"


@pytest.mark.usefixtures("either_method")
def test_concepts_that_enter_late_are_found():
    # More concepts than the active set holds: the answer must be that of the whole problem.
    scores, labels = problem(13, count=300, concepts=60)
    l1 = 0.02
    head = fit_head(scores, labels, classes=CLASSES, l1=l1, l2=0.0, **TIGHT)
    error = torch.softmax(scores @ head.weight.T + head.bias, dim=1) - F.one_hot(labels, CLASSES)
    gradient = error.T @ scores / len(scores)
    unused = ~head.weight.any(dim=0)
    assert 0 < int(unused.sum()) < 60
    assert gradient.abs()[head.weight == 0].max() <= l1 + 1e-7
    assert (gradient + l1 * head.weight.sign())[head.weight != 0].abs().max() < 1e-7


def test_the_methods_find_the_same_head_and_one_hands_its_work_to_the_other(monkeypatch):
    scores, labels = problem(14, count=400, concepts=30)
    fit = {"classes": CLASSES, "l1": 1e-3, "l2": 1e-2, "tolerance": 1e-8, "max_iterations": 5000}
    by_gradients = fit_head(scores, labels, **fit)
    taken_over = []
    plain = elastic_net.minimise_by_gradients

    def noted(table, start, *rest, **options):
        taken_over.append(int((start[:, :-1] != 0).sum()))
        return plain(table, start, *rest, **options)

    monkeypatch.setattr(elastic_net, "minimise_by_gradients", noted)
    monkeypatch.setattr(elastic_net, "LARGE", 0)
    monkeypatch.setattr(proximal_newton, "_MOST_STEPS", 2000)
    by_newton = fit_head(scores, labels, **fit)
    assert not taken_over
    monkeypatch.setattr(proximal_newton, "_MOST_STEPS", 3)
    handed_over = fit_head(scores, labels, **fit)
    assert len(taken_over) == 1
    assert taken_over[0] > 0, "the work so far is kept"
    monkeypatch.setattr(proximal_newton, "WIDEST", 5)
    too_wide = fit_head(scores, labels, **fit)
    assert taken_over[1:] == [0]
    for other in (by_newton, handed_over, too_wide):
        assert other.weight.any()
        assert (by_gradients.weight - other.weight).abs().max() < 1e-5


@pytest.mark.usefixtures("either_method")
def test_a_class_without_pictures_ends_the_fit():
    scores, labels = problem(16)
    labels[labels == 2] = 1
    head = fit_head(scores, labels, classes=CLASSES, l1=0.01, l2=0.0, max_iterations=200)
    assert head.weight.isfinite().all()
    assert not head.weight[2].any()
    assert head.bias.isfinite().all()
    assert torch.softmax(scores @ head.weight.T + head.bias, dim=1)[:, 2].max() < 1e-3


def test_the_divergence_is_that_of_its_definition_and_precise_for_small_steps():
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 6, generator=random, dtype=torch.float64)
    for size in (1e-9, 1e-3, 1.0, 30.0):
        change = size * torch.randn(50, 6, generator=random, dtype=torch.float64)
        share = logits.softmax(dim=1)
        if size < 1e-6:
            mean = (share * change).sum(dim=1, keepdim=True)
            expected = float((share * (change - mean) ** 2).sum() / 2)
        else:
            rise = (logits + change).logsumexp(dim=1) - logits.logsumexp(dim=1)
            expected = float((rise - (share * change).sum(dim=1)).sum())
        assert penalised_loss._divergence(logits, change) == pytest.approx(expected, rel=1e-6)


@pytest.mark.usefixtures("either_method")
def test_constant_concepts_get_no_weight():
    scores, labels = problem(10)
    scores[:, 3] = 0.0
    head = fit_head(scores, labels, classes=CLASSES, l1=0.0, l2=1e-3)
    assert not head.weight[:, 3].any()
    assert head.weight.isfinite().all()


@pytest.mark.parametrize("values", [{"curve": (0,)}, {"curve": (-1, 2)}, {"alpha": 0}, {"lambda_ratio": 1}, {"nec": 5}])
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(ValidationError):
        HeadTraining(**values)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    concepts=st.integers(1, 40),
    classes=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    share=st.floats(0, 1),
)
def test_contributions_and_bias_sum_to_the_logit_of_every_class(seed, concepts, classes, scale, share):
    generator = torch.Generator().manual_seed(seed)
    model = SalfModel(torch.nn.Identity(), channels=3, concepts=concepts, classes=classes)
    model.head_weight.copy_(torch.randn(classes, concepts, generator=generator) * scale)
    model.head_weight.mul_(torch.rand(classes, concepts, generator=generator) < share)
    model.head_bias.copy_(torch.randn(classes, generator=generator))
    scores = torch.randn(2, concepts, generator=generator)
    logits = model.logits(scores)
    for target in range(classes):
        parts = model.contributions(scores, torch.tensor([target, target]))
        allowed = 1e-5 * parts.abs().sum(dim=1) + 1e-4
        assert ((parts.sum(dim=1) + model.head_bias[target] - logits[:, target]).abs() <= allowed).all()
