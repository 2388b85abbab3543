"""The identities of the design's section 3, in float64 to 1e-12, on arbitrary heads and maps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salf_training import operations as ops
from salf_training.model import pool_maps

EXACT = 1e-12


class Case:
    """A head and maps [B,M,h,w] of arbitrary sizes, never square by accident."""

    def __init__(self, seed: int, pictures: int, concepts: int, classes: int, rows: int, columns: int) -> None:
        random = np.random.default_rng(seed)
        self.random = random
        self.maps = random.normal(size=(pictures, concepts, rows, columns))
        self.mean = random.normal(size=concepts)
        self.std = random.uniform(0.5, 2, size=concepts)
        self.weight = random.normal(size=(classes, concepts)) * (random.random((classes, concepts)) < 0.6)
        self.bias = random.normal(size=classes)
        self.statistics = {"mean": self.mean, "std": self.std}
        self.mask = random.random((rows, columns))

    def scores(self, pooling: ops.Pooling) -> ops.Array:
        return ops.concept_scores(self.maps, pooling=pooling, **self.statistics)


cases = st.builds(
    Case,
    seed=st.integers(0, 2**31),
    pictures=st.integers(1, 3),
    concepts=st.integers(1, 8),
    classes=st.integers(1, 4),
    rows=st.integers(1, 5),
    columns=st.integers(1, 6),
)
poolings = st.sampled_from(["average", "softmax"])
EXAMPLES = settings(max_examples=60, deadline=None)


@EXAMPLES
@given(case=cases, pooling=poolings)
def test_contributions_and_bias_are_the_logit(case, pooling):
    z = case.scores(pooling)
    logits = ops.head_logits(z, weight=case.weight, bias=case.bias)
    for target in range(len(case.bias)):
        parts = ops.contributions(z, weight=case.weight, target=target)
        assert np.abs(parts.sum(axis=1) + case.bias[target] - logits[:, target]).max() < EXACT * 100


@EXAMPLES
@given(case=cases)
def test_a_class_map_averages_to_the_logit_without_its_bias(case):
    logits = ops.head_logits(case.scores("average"), weight=case.weight, bias=case.bias)
    for target in range(len(case.bias)):
        where = ops.class_maps(case.maps, weight=case.weight, target=target, **case.statistics)
        assert where.shape == (len(case.maps), *case.maps.shape[2:])
        assert np.abs(where.mean(axis=(1, 2)) + case.bias[target] - logits[:, target]).max() < EXACT * 100


@EXAMPLES
@given(case=cases)
def test_the_papers_class_map_is_the_sum_over_concepts(case):
    z = case.scores("average")
    got = ops.contribution_weighted_maps(case.maps, z, weight=case.weight, target=0)
    expected = sum(case.weight[0, m] * z[:, m, None, None] * case.maps[:, m] for m in range(case.maps.shape[1]))
    assert np.abs(got - expected).max() < EXACT * 100


@EXAMPLES
@given(case=cases)
def test_evidence_is_never_negative_and_one_concepts_cells_keep_their_order(case):
    evidence = ops.evidence_maps(case.maps, weight=case.weight, target=0, **case.statistics)
    assert (evidence >= 0).all()
    single = np.zeros_like(case.weight)
    single[0, 0] = 2.0
    alone = ops.evidence_maps(case.maps, weight=single, target=0, **case.statistics)
    z = (case.maps[:, 0] - case.mean[0]) / case.std[0]
    assert alone == pytest.approx(2 * z.clip(0) ** 3)


@EXAMPLES
@given(case=cases, beta=st.floats(-20, 20), pooling=poolings)
def test_an_edit_changes_the_edited_concept_only_and_by_what_the_design_says(case, beta, pooling):
    edit = ops.Edit(concept=case.maps.shape[1] - 1, beta=beta, mask=case.mask)
    before = case.maps.copy()
    z = case.scores(pooling)
    edited = ops.edited_scores(case.maps, [edit], pooling=pooling, **case.statistics)
    assert np.array_equal(case.maps, before), "the maps that were given stay as they are"
    assert np.array_equal(edited[:, :-1], z[:, :-1])
    if pooling == "average":
        shifted = ops.shifted_scores(z, [edit], std=case.std)
        assert np.abs(edited - shifted).max() < EXACT * 100
        assert np.abs(shifted[:, -1] - z[:, -1] - beta * case.mask.mean() / case.std[-1]).max() < EXACT * 100
    else:
        by_hand = ops.pool(case.maps[:, -1] + beta * case.mask, pooling="softmax")
        assert np.abs(edited[:, -1] - (by_hand - case.mean[-1]) / case.std[-1]).max() < EXACT * 100


def test_the_mask_is_added_once_and_two_edits_add_up():
    case = Case(0, 1, 2, 1, 2, 3)
    edit = ops.Edit(1, 3.0, np.ones((2, 3)))
    assert np.allclose(ops.edited_maps(case.maps, [edit])[:, 1], case.maps[:, 1] + 3, atol=EXACT)
    assert np.allclose(ops.edited_maps(case.maps, [edit, edit])[:, 1], case.maps[:, 1] + 6, atol=EXACT)


@EXAMPLES
@given(case=cases)
def test_under_average_pooling_the_whole_picture_as_a_region_is_z(case):
    everything = np.full(case.maps.shape[2:], 0.3)
    here = ops.region_scores(case.maps, everything, pooling="average", **case.statistics)
    assert np.abs(here - case.scores("average")).max() < EXACT * 10


@EXAMPLES
@given(case=cases)
def test_regions_that_tile_the_picture_average_to_it(case):
    rows, columns = case.maps.shape[2:]
    cut = case.random.uniform(0.1, 0.9) * columns
    parts = [(0.0, cut), (cut, float(columns))]
    total = np.zeros(case.maps.shape[:2])
    for left, right in parts:
        region = ops.box_mask(0, left, rows, right, rows=rows, columns=columns)
        total += ops.region_scores(case.maps, region, pooling="average", **case.statistics) * (right - left) / columns
    assert np.abs(total - case.scores("average")).max() < EXACT * 100


def test_under_softmax_pooling_a_region_answers_with_raw_maps():
    case = Case(3, 2, 3, 2, 4, 5)
    region = ops.point_mask(1, 4, rows=4, columns=5)
    here = ops.region_scores(case.maps, region, pooling="softmax", **case.statistics)
    assert np.allclose(here, case.maps[:, :, 1, 4], atol=EXACT)
    ranked = ops.region_concepts(case.maps, region, pooling="softmax", count=2, **case.statistics)
    assert [found.concept for found in ranked[1]] == np.argsort(-case.maps[1, :, 1, 4])[:2].tolist()


def test_a_box_covers_shares_of_cells():
    box = ops.box_mask(0.5, 1.0, 2.0, 2.25, rows=3, columns=4)
    assert np.array_equal(box, [[0, 0.5, 0.125, 0], [0, 1, 0.25, 0], [0, 0, 0, 0]])
    assert ops.point_mask(2, 3, rows=3, columns=4).tolist()[2] == [0, 0, 0, 1]


@pytest.mark.parametrize("box", [(0, 0, 4, 1), (-1, 0, 1, 1), (1, 1, 1, 2), (0, 2, 1, 1), (0, 0, 1, 9)])
def test_boxes_that_are_empty_or_outside_are_refused(box):
    with pytest.raises(ValueError, match="3 x 4 cells"):
        ops.box_mask(*box, rows=3, columns=4)


@pytest.mark.parametrize("region", [np.zeros((4, 5)), -np.ones((4, 5)), np.ones((5, 4)), np.full((4, 5), np.nan)])
def test_regions_that_mean_nothing_are_refused(region):
    case = Case(3, 2, 3, 2, 4, 5)
    with pytest.raises(ValueError, match=r"\[4, 5\]"):
        ops.region_scores(case.maps, region, pooling="average", **case.statistics)


@pytest.mark.parametrize(("concept", "shape"), [(3, (4, 5)), (-1, (4, 5)), (0, (5, 4))])
def test_edits_that_do_not_fit_are_refused(concept, shape):
    with pytest.raises(ValueError, match="0 to 2"):
        ops.edited_maps(Case(3, 2, 3, 2, 4, 5).maps, [ops.Edit(concept, 1.0, np.ones(shape))])


@EXAMPLES
@given(
    maps=hnp.arrays(np.float64, (2, 3, 2, 4), elements=st.floats(-1e4, 1e4)),
    pooling=poolings,
)
def test_pooling_is_the_models_own(maps, pooling):
    theirs = pool_maps(torch.from_numpy(maps), pooling).numpy()
    ours = ops.pool(maps, pooling=pooling)
    assert np.allclose(ours, theirs, rtol=1e-12, atol=1e-9)
    assert (ours <= maps.max(axis=(2, 3)) + 1e-8).all()


def test_frames_of_a_video_are_independent():
    case = Case(5, 3, 4, 2, 3, 5)
    at_once = ops.class_maps(case.maps, weight=case.weight, target=1, **case.statistics)
    one_by_one = [
        ops.class_maps(case.maps[i : i + 1], weight=case.weight, target=1, **case.statistics)[0] for i in range(3)
    ]
    assert np.allclose(at_once, np.stack(one_by_one), atol=EXACT)


def test_rules_hold_every_weight_largest_first():
    weight = np.array([[0.0, -3.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    first, second = ops.decision_rules(weight, np.array([0.5, -1.0]))
    assert first == ops.DecisionRule(0, 0.5, (ops.RankedConcept(1, -3.0), ops.RankedConcept(2, 2.0)))
    assert second.concepts == ()
    assert ops.decision_rules(weight, np.zeros(2), count=1)[0].concepts == (ops.RankedConcept(1, -3.0),)
    z = np.random.default_rng(0).normal(size=4)
    by_rule = first.bias + sum(part.value * z[part.concept] for part in first.concepts)
    assert by_rule == pytest.approx(
        ops.head_logits(z[None], weight=weight, bias=np.array([0.5, -1.0]))[0, 0], abs=EXACT
    )
