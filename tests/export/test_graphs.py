"""The explain graph against the design's formulas, in float64, over random heads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salf_contract import EXPLAIN_OUTPUTS, FROM_FEATURES_OUTPUTS, NO_CONCEPT, PREDICTED_CLASS, TensorSpec, sum_tolerance
from salf_export.errors import GraphError, SourceError
from salf_export.folding import LinearHead, fold, graph_head, sparse_table
from salf_export.graph_builder import GraphBuilder, identity_features
from salf_export.graphs import all_maps_graph, all_scores_graph, explain_graph, from_features_graph, what_if_graph
from salf_export.operators import operator_problems
from salf_export.resizing import resize_matrix
from salf_export.runtime import GraphSession

ID = np.array([1, -2, 3, -4], np.int32)
ROWS, COLUMNS = 3, 2  # not square


SIZES = [None, (ROWS, COLUMNS), (5, 4), (2, 1), (2, 7)]


def random_head(
    *,
    seed: int,
    classes: int,
    concepts: int,
    channels: int,
    density: float,
    empty_rows: int,
    pooling: str = "average",
    map_size: tuple[int, int] | None = None,
) -> LinearHead:
    random = np.random.default_rng(seed)
    weight = random.normal(size=(classes, concepts)) * (random.random((classes, concepts)) < density)
    weight[:empty_rows] = 0
    return LinearHead(
        concept_weight=random.normal(size=(concepts, channels)),
        concept_bias=random.normal(size=concepts),
        score_mean=random.normal(size=concepts),
        score_std=random.uniform(0.5, 2, concepts),
        head_weight=weight,
        head_bias=random.normal(size=classes),
        pooling=pooling,
        map_size=map_size,
    )


def resized(features: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear between the centres of cells, clamped at the edges, no antialiasing: written out, [B,C,h,w]."""
    for axis, target in zip((2, 3), size, strict=True):
        source = features.shape[axis]
        place = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, source - 1)
        share = (place - low).reshape([-1 if i == axis else 1 for i in range(4)])
        features = features.take(low, axis) * (1 - share) + features.take(high, axis) * share
    return features


def pooled(maps: np.ndarray, pooling: str) -> np.ndarray:
    """[B,M,h,w] -> [B,M]."""
    if pooling == "average":
        return maps.mean(axis=(2, 3))
    weights = np.exp(maps - maps.max(axis=(2, 3), keepdims=True))
    return (maps * weights).sum(axis=(2, 3)) / weights.sum(axis=(2, 3))


def expected(head: LinearHead, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw maps [B,M,h,w], z [B,M], logits [B,K], as section 2 of the design defines them."""
    wide = features.astype(np.float64)
    wide = wide if head.map_size is None else resized(wide, head.map_size)
    maps = np.einsum("mc,bchw->bmhw", head.concept_weight, wide)
    maps += head.concept_bias[:, None, None]
    z = (pooled(maps, head.pooling) - head.score_mean) / head.score_std
    return maps, z, z @ head.head_weight.T + head.head_bias


@settings(max_examples=120, deadline=None)
@given(
    pooling=st.sampled_from(["average", "softmax"]),
    map_size=st.sampled_from(SIZES),
    seed=st.integers(0, 10_000),
    classes=st.integers(1, 5),
    concepts=st.integers(1, 30),
    channels=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    empty_rows=st.integers(0, 2),
    top=st.integers(1, 30),
    batch=st.sampled_from([1, 3, 5]),
    sparse=st.sampled_from([True, False, None]),
)
def test_explain_equals_the_design_for_any_head(
    pooling, map_size, seed, classes, concepts, channels, density, empty_rows, top, batch, sparse
):
    head = random_head(
        seed=seed,
        classes=classes,
        concepts=concepts,
        channels=channels,
        density=density,
        empty_rows=empty_rows,
        pooling=pooling,
        map_size=map_size,
    )
    top = min(top, concepts)
    random = np.random.default_rng(seed + 1)
    features = random.normal(size=(batch, channels, ROWS, COLUMNS)).astype(np.float32)
    target = random.integers(-1, classes, (batch, 1)).astype(np.int32)
    graph = explain_graph(
        identity_features(channels, ROWS, COLUMNS), graph_head(head), top=top, contract_id=ID, sparse=sparse
    )
    answer = GraphSession(graph, threads=1).run({"features": features, "target": target})

    maps, z, logits = expected(head, features)
    assert list(answer) == [spec.name for spec in EXPLAIN_OUTPUTS]
    np.testing.assert_allclose(answer["logits"], logits, rtol=1e-4, atol=1e-4)
    assert (answer["contract_id"] == ID).all()
    assert answer["contract_id"].shape == (batch, 4)
    for row in range(batch):
        k = int(answer["target_class"][row, 0])
        if target[row, 0] == PREDICTED_CLASS:
            assert logits[row, k] >= logits[row].max() - 1e-4
        else:
            assert k == target[row, 0]
        contributions = head.head_weight[k] * z[row]
        chosen = answer["top_concepts"][row]
        used = min(top, np.count_nonzero(head.head_weight[k]))
        shown, padding = chosen[:used], chosen[used:]
        assert len(set(shown.tolist())) == used
        assert (shown >= 0).all()
        assert (head.head_weight[k, shown] != 0).all()
        assert (padding == NO_CONCEPT).all()
        # Falling by size, and nothing larger was left out.
        sizes = np.abs(contributions)
        assert (np.diff(sizes[shown]) <= 1e-4).all()
        rest = np.delete(contributions, shown)
        if used:
            assert np.abs(rest).max(initial=0) <= sizes[shown].min() + 1e-4
        np.testing.assert_allclose(answer["top_contributions"][row, :used], contributions[shown], atol=1e-4)
        np.testing.assert_allclose(answer["top_scores"][row, :used], z[row, shown], atol=1e-4)
        np.testing.assert_allclose(answer["rest_contribution"][row], rest.sum(), atol=1e-4)
        np.testing.assert_allclose(answer["bias"][row], head.head_bias[k], atol=1e-6)
        whole = sizes.sum()
        assert answer["coverage"][row, 0] == pytest.approx(sizes[shown].sum() / whole if whole else 1.0, abs=1e-4)
        assert 0 <= answer["coverage"][row, 0] <= 1
        normalised = (maps[row, shown] - head.score_mean[shown, None, None]) / head.score_std[shown, None, None]
        np.testing.assert_allclose(answer["top_maps"][row, :used], normalised, atol=1e-4)
        for name in ("top_contributions", "top_scores", "top_maps"):
            assert not answer[name][row, used:].any(), name
        total = answer["top_contributions"][row].sum() + answer["rest_contribution"][row, 0] + answer["bias"][row, 0]
        assert abs(total - answer["logits"][row, k]) <= sum_tolerance(contributions)
        if pooling == "average":  # only then is the weight times the map's mean the contribution
            means = answer["top_maps"][row, :used].mean(axis=(1, 2))
            np.testing.assert_allclose(head.head_weight[k, shown] * means, contributions[shown], atol=1e-4)


@pytest.mark.parametrize("sparse", [True, False])
def test_the_rest_is_not_empty_when_more_concepts_speak_than_are_shown(sparse):
    head = random_head(seed=3, classes=2, concepts=20, channels=4, density=1.0, empty_rows=0)
    features = np.random.default_rng(0).normal(size=(3, 4, ROWS, COLUMNS)).astype(np.float32)
    graph = explain_graph(identity_features(4, ROWS, COLUMNS), fold(head), top=2, contract_id=ID, sparse=sparse)
    answer = GraphSession(graph, threads=1).run({"features": features, "target": np.zeros((3, 1), np.int32)})
    assert (np.abs(answer["rest_contribution"]) > 1e-3).all()
    assert (answer["coverage"] < 0.9).all()


@pytest.mark.parametrize("target", [-2, 4, 2**31 - 1, -(2**31)])
def test_a_target_out_of_range_is_answered_for_the_predicted_class(target):
    head = random_head(seed=1, classes=4, concepts=9, channels=3, density=0.4, empty_rows=0)
    session = GraphSession(explain_graph(identity_features(3, ROWS, COLUMNS), fold(head), top=4, contract_id=ID))
    features = np.random.default_rng(0).normal(size=(3, 3, ROWS, COLUMNS)).astype(np.float32)
    answer = session.run({"features": features, "target": np.full((3, 1), target, np.int32)})
    assert (answer["target_class"][:, 0] == answer["logits"].argmax(axis=1)).all()


def test_one_batch_may_ask_for_different_classes():
    head = random_head(seed=1, classes=3, concepts=9, channels=3, density=0.6, empty_rows=0)
    session = GraphSession(explain_graph(identity_features(3, ROWS, COLUMNS), fold(head), top=4, contract_id=ID))
    features = np.random.default_rng(0).normal(size=(1, 3, ROWS, COLUMNS)).astype(np.float32)
    together = session.run({"features": features.repeat(3, 0), "target": np.array([[0], [1], [2]], np.int32)})
    for k in range(3):
        alone = session.run({"features": features, "target": np.array([[k]], np.int32)})
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][k], values[0], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("map_size", SIZES)
@pytest.mark.parametrize("pooling", ["average", "softmax"])
def test_all_maps_and_all_scores_are_the_models(pooling, map_size):
    linear = random_head(
        seed=5, classes=3, concepts=11, channels=4, density=0.5, empty_rows=0, pooling=pooling, map_size=map_size
    )
    head = graph_head(linear)
    features = np.random.default_rng(0).normal(size=(5, 4, ROWS, COLUMNS)).astype(np.float32)
    maps, z, _ = expected(linear, features)
    source = identity_features(4, ROWS, COLUMNS)
    all_maps = GraphSession(all_maps_graph(source, head, contract_id=ID)).run({"features": features})
    all_scores = GraphSession(all_scores_graph(source, head, contract_id=ID)).run({"features": features})
    np.testing.assert_allclose(all_maps["all_maps"], maps, atol=1e-5)
    np.testing.assert_allclose(all_scores["all_scores"], z, atol=1e-5)
    assert (all_maps["contract_id"] == ID).all()

    question = {"features": features, "target": np.array([[0], [1], [2], [-1], [-1]], np.int32)}
    whole = GraphSession(from_features_graph(source, head, top=4, contract_id=ID)).run(question)
    assert list(whole) == [spec.name for spec in FROM_FEATURES_OUTPUTS]
    explained = GraphSession(explain_graph(source, head, top=4, contract_id=ID)).run(question)
    for name, values in (explained | all_maps | all_scores).items():
        np.testing.assert_allclose(whole[name], values, atol=1e-6, err_msg=name)


def test_softmax_pooling_is_not_average_pooling_of_divided_maps():
    """Guards the reference above: were the division by std folded before pooling, scores would differ visibly."""
    head = random_head(seed=5, classes=2, concepts=6, channels=4, density=1, empty_rows=0, pooling="softmax")
    maps, z, _ = expected(head, np.random.default_rng(0).normal(size=(2, 4, ROWS, COLUMNS)))
    divided = (maps - head.score_mean[:, None, None]) / head.score_std[:, None, None]
    assert np.abs(pooled(divided, "softmax") - z).max() > 0.05
    assert np.abs(pooled(divided, "average") - z).max() > 0.05
    with pytest.raises(SourceError, match="softmax pooling cannot be folded"):
        fold(head)


@pytest.mark.parametrize("pooling", ["average", "softmax"])
def test_only_the_top_maps_leave_the_graph(pooling):
    head = graph_head(
        random_head(seed=5, classes=2, concepts=50, channels=4, density=0.1, empty_rows=0, pooling=pooling)
    )
    graph = explain_graph(identity_features(4, ROWS, COLUMNS), head, top=3, contract_id=ID).graph
    outputs = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.output}
    assert outputs["top_maps"] == [0, 3, ROWS, COLUMNS]
    assert not any(50 in dims for dims in outputs.values())
    assert ("Softmax" in {node.op_type for node in graph.node}) == (pooling == "softmax")


@pytest.mark.parametrize(
    ("source", "target"), [((7, 7), (12, 12)), ((3, 5), (2, 9)), ((1, 1), (4, 2)), ((6, 4), (6, 4))]
)
def test_the_resize_matrix_is_bilinear_interpolation(source, target):
    features = np.random.default_rng(0).normal(size=(2, 3, *source))
    matrix = resize_matrix(source, target)
    flat = features.reshape(2, 3, -1) @ matrix
    np.testing.assert_allclose(flat.reshape(2, 3, *target), resized(features, target), atol=1e-12)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-12)


def test_a_sparse_head_takes_the_path_that_computes_only_its_own_concepts():
    sparse = random_head(seed=1, classes=3, concepts=400, channels=3, density=0.01, empty_rows=0)
    dense = random_head(seed=1, classes=3, concepts=400, channels=3, density=1.0, empty_rows=0)

    def constants(head: LinearHead) -> set[str]:
        graph = explain_graph(identity_features(3, ROWS, COLUMNS), fold(head), top=4, contract_id=ID)
        return {tensor.name for tensor in graph.graph.initializer}

    assert "table_concepts" in constants(sparse)
    assert "head_weight" not in constants(sparse)
    assert "head_weight" in constants(dense)


def test_every_constant_is_stored_once_and_every_operator_is_allowed():
    head = random_head(seed=1, classes=3, concepts=50, channels=3, density=0.1, empty_rows=0)
    softmax = LinearHead(**{**vars(head), "pooling": "softmax", "map_size": (3, 3)})
    resizing = LinearHead(**{**vars(head), "map_size": (3, 3)})
    source = identity_features(3, 2, 2)
    models = [explain_graph(source, fold(head), top=4, contract_id=ID, sparse=sparse) for sparse in (True, False)]
    for one in (head, softmax, resizing):
        models += [
            explain_graph(source, graph_head(one), top=4, contract_id=ID),
            from_features_graph(source, graph_head(one), top=4, contract_id=ID),
            all_maps_graph(source, graph_head(one), contract_id=ID),
            all_scores_graph(source, graph_head(one), contract_id=ID),
            what_if_graph(source, graph_head(one), contract_id=ID),
        ]
    for model in models:
        graph = model.graph
        contents = [(t.data_type, tuple(t.dims), t.raw_data) for t in graph.initializer]
        assert len(contents) == len(set(contents))
        used = {name for node in graph.node for name in node.input}
        assert {t.name for t in graph.initializer} <= used
        assert operator_problems(model) == ()


def test_an_operator_outside_the_table_is_refused():
    graph = GraphBuilder(identity_features(3, 2, 2))
    graph.add("Det", graph.features, name="all_maps")
    with pytest.raises(GraphError, match="reads: Det;"):
        graph.finish([(TensorSpec("all_maps", "FP32", (3,)), [3])], name="foreign")


@pytest.mark.parametrize("field", ["concept_weight", "head_bias"])
def test_numbers_that_are_not_finite_are_refused(field):
    head = random_head(seed=1, classes=3, concepts=9, channels=3, density=0.6, empty_rows=0)
    broken = getattr(head, field).copy()
    broken.flat[0] = np.nan
    with pytest.raises(SourceError, match=field):
        LinearHead(**{**vars(head), field: broken})


def test_a_concept_that_never_varies_is_refused():
    head = random_head(seed=1, classes=3, concepts=9, channels=3, density=0.6, empty_rows=0)
    std = head.score_std.copy()
    std[4] = 0
    with pytest.raises(SourceError, match="score_std of concept 4"):
        LinearHead(**{**vars(head), "score_std": std})


def test_the_sparse_table_lists_each_classes_concepts():
    table = sparse_table(np.array([[0, 2, 0, -3], [0, 0, 0, 0]], np.float32), slots=3)
    assert table.concepts.tolist() == [[1, 3, NO_CONCEPT], [NO_CONCEPT] * 3]
    assert table.weights.tolist() == [[2, -3, 0], [0, 0, 0]]
