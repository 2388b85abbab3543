"""The client against the real Triton on the committed model repository."""

import io
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from safetensors.numpy import load_file
from tritonclient.utils import InferenceServerException

from salf_client import (
    Client,
    DeadlineExceededError,
    InvalidPictureError,
    InvalidRequestError,
    ModelNotFoundError,
    Removal,
    TopOutOfRangeError,
    UnknownClassError,
)
from salf_client.answers import ANSWER_TENSORS
from salf_client.grpc_transport import GrpcTransport
from salf_contract import sum_tolerance

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def real(triton_server):
    with Client(triton_server.grpc_address) as client:
        yield client


@pytest.fixture(scope="module")
def info(real):
    (model,) = real.models()
    return model


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (150, 260, 3), dtype=np.uint8))


def test_the_model_is_described(real, info):
    assert real.is_ready()
    assert len(info.classes) >= 8
    assert len(info.concepts) >= 150
    assert info.backend
    assert info.top >= 5


def test_evidence_sums_to_the_logit_for_every_class_and_every_top(real, info, picture):
    for target in range(len(info.classes)):
        for top in (1, info.top):
            explanation = real.explain(picture, target=target, top=top)
            parts = np.array([*(c.contribution for c in explanation.concepts), explanation.rest_contribution])
            assert abs(parts.sum() + explanation.bias - explanation.logit) <= sum_tolerance(parts)
            assert explanation.target_index == target
            assert 0 <= explanation.coverage <= 1


def test_the_maps_mean_is_the_score_under_average_pooling(real, info, picture):
    if info.pooling != "average":
        pytest.skip("holds for average pooling only")
    for concept in real.explain(picture, top=info.top).concepts:
        assert concept.map.mean() == pytest.approx(concept.score, rel=1e-3, abs=1e-3)


def test_bytes_paths_and_arrays_agree(real, picture, tmp_path):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(buffer.getvalue())
    answers = [real.explain(form) for form in (picture, buffer.getvalue(), path, np.asarray(picture))]
    assert all(answer.label == answers[0].label for answer in answers)
    assert all(np.allclose(answer.logits, answers[0].logits, atol=1e-5) for answer in answers)


def test_heatmaps_lie_on_the_source(real, picture):
    explanation = real.explain(picture, top=5)
    heat = explanation.heatmap(explanation.concepts[0], allow_absent=True)
    assert heat.shape == (150, 260)
    left, _, right, _ = explanation.crop_box
    assert np.isnan(heat[:, : int(left)]).all()
    assert np.isfinite(heat[:, int(left) + 1 : int(right)]).all()


def test_bad_input_is_refused_and_the_server_lives_on(real, info, picture, tmp_path):
    truncated = io.BytesIO()
    picture.save(truncated, "JPEG")
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    for bad in (text, truncated.getvalue()[:-300], np.zeros((0, 0, 3), np.uint8), np.zeros((9, 9), np.float64)):
        with pytest.raises(InvalidPictureError):
            real.explain(bad)
    with pytest.raises(UnknownClassError):
        real.explain(picture, target="no such class")
    for top in (0, info.top + 1):
        with pytest.raises(TopOutOfRangeError):
            real.explain(picture, top=top)
    assert real.explain(picture).label in info.classes


def test_requests_of_a_wrong_shape_type_or_name_are_refused_by_the_server(real, info, triton_server, picture):
    transport = GrpcTransport(triton_server.grpc_address)
    height, width = info.input_size
    good = np.zeros((1, height, width, 3), np.uint8)
    target = np.array([[-1]], np.int32)
    for inputs in (
        {"image": good[:, 1:], "target": target},
        {"image": good[..., :1], "target": target},
        {"image": good.astype(np.float32), "target": target},
        {"image": good},
        {"picture": good, "target": target},
        {"image": good, "target": np.zeros((1, 2), np.int32)},
    ):
        with pytest.raises(InvalidRequestError):
            transport.infer(info.name, inputs, ANSWER_TENSORS, timeout_s=10)
    with pytest.raises(InvalidRequestError):
        transport.infer(info.name, {"image": good, "target": target}, ("no_such_output",), timeout_s=10)
    assert real.explain(picture).label in info.classes


def test_an_empty_array_on_the_wire_is_refused_and_the_server_lives_on(real, info, triton_server, picture):
    client = triton.InferenceServerClient(triton_server.grpc_address)
    image = triton.InferInput("image", [1, 0, 0, 3], "UINT8").set_data_from_numpy(np.zeros((1, 0, 0, 3), np.uint8))
    with pytest.raises(InferenceServerException):
        client.infer(info.name, [image], client_timeout=10)
    assert real.explain(picture).label in info.classes


def test_models_that_are_not_served_name_what_is(triton_server, info, picture):
    client = Client(triton_server.grpc_address, model="no_such_model")
    assert not client.is_ready()
    with pytest.raises(ModelNotFoundError, match=f"no_such_model.*{info.name}"):
        client.explain(picture)
    with pytest.raises(ModelNotFoundError):
        GrpcTransport(triton_server.grpc_address).model_config("no_such_model", timeout_s=10)
    others = GrpcTransport(triton_server.grpc_address).repository_index(timeout_s=10)
    for other in {entry.model for entry in others} - {info.name}:
        with pytest.raises(ModelNotFoundError, match=f"{other}.*{info.name}"):
            Client(triton_server.grpc_address, model=other).explain(picture)


def test_a_deadline_that_is_too_short_is_said(triton_server, picture):
    with Client(triton_server.grpc_address, timeout_s=1e-4) as client, pytest.raises(DeadlineExceededError):
        client.explain(picture)


def test_what_the_other_graphs_say_agrees_with_the_explanation(real, info):
    harbour = ROOT / "demonstration" / "pictures" / "harbour.jpg"
    explanation = real.explain(harbour, top=info.top)
    maps = real.concept_maps(harbour)
    assert maps.maps.shape == (len(info.concepts), *explanation.concepts[0].map.shape)
    strongest = next(concept for concept in explanation.concepts if concept.present)
    heat = explanation.heatmap(strongest)
    row, column = np.unravel_index(np.nanargmax(heat), heat.shape)
    here = real.region(harbour, point=(column + 0.5, row + 0.5), top=len(info.concepts))
    score = next(one.score for one in here.concepts if one.name == strongest.name)
    assert score == pytest.approx(float(heat[row, column]), abs=0.05)
    everywhere = real.region(harbour, box=explanation.crop_box, top=len(info.concepts))
    for concept in explanation.concepts:
        found = next(one.score for one in everywhere.concepts if one.name == concept.name)
        # A box's pixels weigh the outer cells' centres a little less evenly than the mean over cells does.
        assert found == pytest.approx(concept.score, abs=0.25)


def test_removing_what_is_there_changes_the_answer_by_what_it_contributed(real, info):
    harbour = ROOT / "demonstration" / "pictures" / "harbour.jpg"
    explanation = real.explain(harbour, top=info.top)
    present = [concept for concept in explanation.concepts if concept.present][:3]
    answer = real.what_if(harbour, [Removal(concept.name) for concept in present])
    expected = explanation.logit - sum(concept.contribution for concept in present)
    assert answer.edited_logit == pytest.approx(expected, abs=1e-3)
    assert {change.name for change in answer.changes} == {concept.name for concept in present}
    assert answer.logit == pytest.approx(explanation.logit, abs=1e-4)


def test_rules_are_the_checkpoints_head(real, info):
    head = load_file(ROOT / "demonstration" / "checkpoint" / "weights.safetensors")["head_weight"]
    rules = real.rules()
    assert [rule.label for rule in rules] == list(info.classes)
    for row, rule in zip(head, rules, strict=True):
        weights = {name: float(weight) for name, weight in zip(info.concepts, row, strict=True) if weight != 0}
        assert rule.weights == pytest.approx(weights, rel=1e-5)
