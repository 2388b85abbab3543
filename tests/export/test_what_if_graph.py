"""The what-if graph against salf_training.operations, in float64, over random heads, regions and edits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salf_contract import EDIT_SLOTS, NO_CONCEPT, PREDICTED_CLASS, WHAT_IF_OUTPUTS, sum_tolerance
from salf_export.folding import LinearHead, graph_head
from salf_export.graph_builder import identity_features
from salf_export.graphs import what_if_graph
from salf_export.runtime import Arrays, GraphSession
from salf_training import operations

from .test_graphs import COLUMNS, ID, ROWS, SIZES, expected, random_head


def what_if_session(head: LinearHead) -> GraphSession:
    source = identity_features(head.concept_weight.shape[1], ROWS, COLUMNS)
    return GraphSession(what_if_graph(source, graph_head(head), contract_id=ID), threads=1)


def nothing_asked(head: LinearHead, batch: int) -> Arrays:
    """A question without region and edits, about random features."""
    h, w = head.map_size or (ROWS, COLUMNS)
    channels = head.concept_weight.shape[1]
    return {
        "features": np.random.default_rng(3).normal(size=(batch, channels, ROWS, COLUMNS)).astype(np.float32),
        "target": np.full((batch, 1), PREDICTED_CLASS, np.int32),
        "region": np.zeros((batch, h, w), np.float32),
        "edit_concepts": np.full((batch, EDIT_SLOTS), NO_CONCEPT, np.int32),
        "edit_strengths": np.zeros((batch, EDIT_SLOTS), np.float32),
        "edit_masks": np.zeros((batch, EDIT_SLOTS, h, w), np.float32),
    }


def random_question(head: LinearHead, batch: int, *, seed: int, used: int) -> Arrays:
    """Regions with gaps, and `used` edits of few concepts, so that some concepts are edited twice."""
    random = np.random.default_rng(seed)
    question = nothing_asked(head, batch)
    classes, concepts = head.head_weight.shape
    shape = question["edit_masks"].shape
    slots = random.permuted(np.tile(np.arange(EDIT_SLOTS), (batch, 1)), axis=1) < used
    edited = random.integers(0, min(concepts, 4), (batch, EDIT_SLOTS)) * (concepts // min(concepts, 4))
    return question | {
        "features": random.normal(size=question["features"].shape).astype(np.float32),
        "target": random.integers(-1, classes, (batch, 1)).astype(np.int32),
        "region": (random.random(question["region"].shape) * (random.random(question["region"].shape) < 0.6)).astype(
            np.float32
        ),
        "edit_concepts": np.where(slots, edited, NO_CONCEPT).astype(np.int32),
        "edit_strengths": random.normal(scale=2, size=(batch, EDIT_SLOTS)).astype(np.float32),
        "edit_masks": random.random(shape).astype(np.float32),
    }


def check(head: LinearHead, question: Arrays, answer: Arrays) -> None:
    maps, z, logits = expected(head, question["features"])
    statistics = {"mean": head.score_mean, "std": head.score_std, "pooling": head.pooling}
    np.testing.assert_allclose(answer["logits"], logits, rtol=1e-4, atol=1e-4)
    for row, k in enumerate(answer["target_class"][:, 0].tolist()):
        if question["target"][row, 0] == PREDICTED_CLASS:
            assert logits[row, k] >= logits[row].max() - 1e-4
        else:
            assert k == question["target"][row, 0]
        one = maps[row : row + 1]
        region = question["region"][row].astype(np.float64)
        here = operations.region_scores(one, region, **statistics)[0] if region.any() else np.zeros(len(z[row]))
        np.testing.assert_allclose(answer["region_scores"][row], here, rtol=1e-4, atol=1e-4)
        edits = [
            operations.Edit(int(concept), float(strength) * head.score_std[concept], mask.astype(np.float64))
            for concept, strength, mask in zip(
                *(question[name][row] for name in ("edit_concepts", "edit_strengths", "edit_masks")), strict=True
            )
            if concept != NO_CONCEPT
        ]
        after = operations.edited_scores(one, edits, **statistics)[0]
        np.testing.assert_allclose(answer["contributions"][row], head.head_weight[k] * z[row], rtol=1e-4, atol=1e-4)
        edited = head.head_weight[k] * after
        np.testing.assert_allclose(answer["edited_contributions"][row], edited, rtol=1e-4, atol=2e-4)
        wanted = after @ head.head_weight.T + head.head_bias
        np.testing.assert_allclose(answer["edited_logits"][row], wanted, rtol=1e-4, atol=3e-4)
        np.testing.assert_allclose(answer["bias"][row], head.head_bias[k], atol=1e-6)
        for values, total in (("contributions", "logits"), ("edited_contributions", "edited_logits")):
            gap = answer[values][row].astype(np.float64).sum() + answer["bias"][row, 0] - answer[total][row, k]
            assert abs(gap) <= sum_tolerance(answer[values][row])


@settings(max_examples=120, deadline=None)
@given(
    pooling=st.sampled_from(["average", "softmax"]),
    map_size=st.sampled_from(SIZES),
    seed=st.integers(0, 10_000),
    classes=st.integers(1, 5),
    concepts=st.integers(1, 30),
    channels=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    batch=st.sampled_from([1, 3, 5]),
    used=st.integers(0, EDIT_SLOTS),
)
def test_any_question_is_answered_as_the_operations_do(
    pooling, map_size, seed, classes, concepts, channels, density, batch, used
):
    head = random_head(
        seed=seed,
        classes=classes,
        concepts=concepts,
        channels=channels,
        density=density,
        empty_rows=0,
        pooling=pooling,
        map_size=map_size,
    )
    question = random_question(head, batch, seed=seed + 1, used=used)
    answer = what_if_session(head).run(question)
    assert list(answer) == [spec.name for spec in WHAT_IF_OUTPUTS]
    assert (answer["contract_id"] == ID).all()
    check(head, question, answer)


def some_head(pooling: str, **kind) -> LinearHead:
    return random_head(seed=2, classes=4, concepts=9, channels=3, density=0.7, empty_rows=0, pooling=pooling, **kind)


@pytest.mark.parametrize("pooling", ["average", "softmax"])
def test_without_an_edit_nothing_changes_not_even_by_rounding(pooling):
    head = some_head(pooling)
    question = nothing_asked(head, 3)
    answer = what_if_session(head).run(question)
    assert (answer["edited_logits"] == answer["logits"]).all()
    assert (answer["edited_contributions"] == answer["contributions"]).all()
    assert not answer["region_scores"].any()


@pytest.mark.parametrize("pooling", ["average", "softmax"])
def test_a_slot_without_a_concept_of_the_model_changes_nothing_whatever_it_holds(pooling):
    head = some_head(pooling)
    session, question = what_if_session(head), nothing_asked(head, 1)
    before = session.run(question)
    for concept in (NO_CONCEPT, 9, 2**31 - 1, -(2**31)):
        full = {
            "edit_concepts": np.full((1, EDIT_SLOTS), concept, np.int32),
            "edit_strengths": np.full((1, EDIT_SLOTS), np.nan, np.float32),
            "edit_masks": np.full_like(question["edit_masks"], np.inf),
        }
        for name, values in session.run(question | full).items():
            np.testing.assert_array_equal(values, before[name], err_msg=f"{name} with concept {concept}")


@pytest.mark.parametrize("pooling", ["average", "softmax"])
def test_two_edits_of_one_concept_are_one_edit_of_their_sum(pooling):
    head = some_head(pooling, map_size=(5, 4))
    session, twice = what_if_session(head), nothing_asked(head, 1)
    masks = np.random.default_rng(0).random((2, 5, 4)).astype(np.float32)
    twice["edit_concepts"][0, [1, 6]] = 7
    twice["edit_strengths"][0, [1, 6]] = (3, -1)
    twice["edit_masks"][0, [1, 6]] = masks
    once = nothing_asked(head, 1)
    once["edit_concepts"][0, 0] = 7
    once["edit_strengths"][0, 0] = 1
    once["edit_masks"][0, 0] = 3 * masks[0] - masks[1]
    answers = [session.run(question) for question in (twice, once)]
    for name in ("edited_logits", "edited_contributions"):
        np.testing.assert_allclose(answers[0][name], answers[1][name], atol=1e-5, err_msg=name)
    assert np.abs(answers[0]["edited_logits"] - answers[0]["logits"]).max() > 0.1
    unchanged = np.delete(np.arange(9), 7)
    for answer in answers:
        assert (answer["edited_contributions"][:, unchanged] == answer["contributions"][:, unchanged]).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_only_the_proportions_of_a_regions_weights_count(scale):
    head = some_head("average")
    session, question = what_if_session(head), nothing_asked(head, 1)
    question["region"][0] = np.random.default_rng(0).random((ROWS, COLUMNS))
    expected_scores = session.run(question)["region_scores"]
    question["region"] *= np.float32(scale)
    np.testing.assert_allclose(session.run(question)["region_scores"], expected_scores, rtol=1e-4, atol=1e-5)


def test_the_whole_picture_as_a_region_gives_its_scores_under_average_pooling():
    head = some_head("average", map_size=(5, 4))
    question = nothing_asked(head, 2)
    question["region"][:] = 1
    _, z, _ = expected(head, question["features"])
    np.testing.assert_allclose(what_if_session(head).run(question)["region_scores"], z, atol=1e-4)


def test_under_average_pooling_nothing_of_the_maps_size_is_computed():
    head = graph_head(some_head("average", map_size=(5, 4)))
    graph = what_if_graph(identity_features(3, ROWS, COLUMNS), head, contract_id=ID).graph
    assert "Conv" not in {node.op_type for node in graph.node}
    assert "GatherElements" not in {node.op_type for node in graph.node}
