"""One explanation: its sums, what may be asked and sent, and which model answers."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from salf_client import (
    Client,
    ContractMismatchError,
    InvalidPictureError,
    ModelNotChosenError,
    ModelNotFoundError,
    ServerNotReadyError,
    TopOutOfRangeError,
    UnknownClassError,
)
from salf_contract import EXPLAIN_OUTPUTS, Prepared, prepare, sum_tolerance


def total(explanation):
    parts = np.array([*(c.contribution for c in explanation.concepts), explanation.rest_contribution])
    return parts.sum() + explanation.bias, sum_tolerance(parts)


@given(
    seed=st.integers(0, 2**32 - 1),
    concepts=st.integers(1, 40),
    slots=st.integers(1, 12),
    asked=st.integers(1, 12),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_evidence_sums_to_the_logit_and_coverage_is_exact_for_any_head(
    memory, seed, concepts, slots, asked, density, data
):
    metadata = memory.make_metadata(concepts=concepts, top=slots, size=(8, 12))
    model = memory.LinearModel(metadata, seed, density)
    top, target = min(asked, slots), data.draw(st.sampled_from([None, 0, 3]))
    image = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    with Client(transport=memory.FakeServer().serve(model)) as client:
        explanation = client.explain(image, top=top, target=target)
    value, tolerance = total(explanation)
    assert abs(value - explanation.logit) <= tolerance
    assert len(explanation.concepts) <= top

    prepared = prepare(Image.fromarray(image), metadata.preparation).pixels
    scores = np.array([m.mean() for m in _all_maps(model, prepared)])
    contributions = model.weights[explanation.target_index] * scores
    everything = np.abs(contributions).sum()
    shown = np.abs([c.contribution for c in explanation.concepts]).sum()
    assert explanation.coverage == pytest.approx(shown / everything if everything else 1.0, abs=1e-5)
    others = np.delete(contributions, [c.index for c in explanation.concepts])
    assert explanation.rest_contribution == pytest.approx(others.sum(), abs=tolerance)
    for concept in explanation.concepts:
        assert concept.contribution == pytest.approx(contributions[concept.index], rel=1e-4, abs=1e-6)
        assert concept.map.mean() == pytest.approx(concept.score, rel=1e-3, abs=1e-5)


def _all_maps(model, image):
    h, w = model.metadata.map_size
    H, W, _ = image.shape
    cells = np.array([[image[i * H // h : (i + 1) * H // h, j * W // w : (j + 1) * W // w].mean((0, 1))
                       for j in range(w)] for i in range(h)])  # fmt: skip
    raw = np.einsum("mc,hwc->mhw", model.bottleneck, cells / 255 - 0.5)
    return (raw - model.mean[:, None, None]) / model.std[:, None, None]


def test_steady_state_is_one_inference_and_nothing_else(client, server, picture):
    client.explain(picture)
    server.calls.clear()
    for _ in range(3):
        client.explain(picture)
    assert server.calls == ["infer"] * 3
    assert set(server.requests[-1][2]) == {spec.name for spec in EXPLAIN_OUTPUTS}


def test_every_form_of_a_picture_gives_the_same_answer(client, picture, tmp_path):
    path = tmp_path / "picture.png"
    picture.save(path)
    forms = [path, str(path), path.read_bytes(), picture, np.asarray(picture)]
    answers = [client.explain(form) for form in forms]
    assert all(answer == answers[0] for answer in answers)
    assert all(np.array_equal(answer.logits, answers[0].logits) for answer in answers)


def test_target_is_taken_by_name_and_by_index(client, picture):
    by_name, by_index = client.explain(picture, target="class 3"), client.explain(picture, target=3)
    assert by_name == by_index
    assert by_name.target == "class 3"
    assert by_name.label == client.explain(picture).label
    assert 0 < by_name.probability < 1


def test_probability_is_the_softmax_of_the_logits(client, picture):
    explanation = client.explain(picture, target=1)
    powers = np.exp(explanation.logits.astype(np.float64))
    assert explanation.probability == pytest.approx(powers[1] / powers.sum())
    assert explanation.predicted_probability == pytest.approx(powers.max() / powers.sum())


@pytest.mark.parametrize("top", [0, -1, 7, 1000])
def test_top_out_of_range_names_the_range(client, picture, top):
    with pytest.raises(TopOutOfRangeError, match=r"1 to 6"):
        client.explain(picture, top=top)


def test_top_defaults_to_five_or_what_there_is(client, empty_server, linear_model, picture):
    assert len(client.explain(picture).concepts) == 5
    assert len(Client(transport=empty_server.serve(linear_model(top=3))).explain(picture).concepts) == 3


def test_unknown_class_suggests_close_ones(client, picture):
    with pytest.raises(UnknownClassError, match=r"did you mean class \d"):
        client.explain(picture, target="clas 2")
    with pytest.raises(UnknownClassError, match="its classes are class 0, class 1"):
        client.explain(picture, target="zebra")
    for index in (-1, 4):
        with pytest.raises(UnknownClassError, match="0 to 3"):
            client.explain(picture, target=index)


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def closed(image):
    """A Pillow picture as `with Image.open(...)` leaves it."""
    with Image.open(io.BytesIO(jpeg(image))) as left:
        pass
    left.close()
    return left


def test_bad_pictures_are_named_and_never_sent(client, server, picture, tmp_path):
    text, truncated = tmp_path / "notes.txt", tmp_path / "cut.jpg"
    text.write_text("no picture")
    truncated.write_bytes(jpeg(picture)[:-200])
    missing = tmp_path / "missing.jpg"
    for bad, words in [
        (missing, "missing.jpg"),
        (text, "notes.txt"),
        (truncated, "cut.jpg.*truncated"),
        (tmp_path, "cannot be read"),
        (b"", "empty"),
        (b"abc", "no picture"),
        ("a\0b", "cannot be read"),
        (np.zeros((0, 5, 3), np.uint8), "shape"),
        (np.zeros((5, 5, 4), np.uint8), "shape"),
        (np.zeros((5,), np.uint8), "shape"),
        (np.zeros((5, 5, 3), np.float32), "uint8"),
        (3, "int"),
        (None, "NoneType"),
        (Image.open(truncated), "cut.jpg"),
        (closed(picture), "closed"),
        (Prepared(np.zeros((32, 48, 3), np.float32), (48, 32), (0, 0, 48, 32)), "float32"),
    ]:
        with pytest.raises(InvalidPictureError, match=words):
            client.explain(bad)
    assert "infer" not in server.calls


def test_the_only_explain_model_is_found_among_others(empty_server, linear_model, picture):
    empty_server.serve(linear_model(name="birds"))
    empty_server.other_models["birds_all_maps"] = ("all_maps", "contract_id")
    client = Client(transport=empty_server)
    assert client.explain(picture).model == "birds"
    assert [model.name for model in client.models()] == ["birds"]


def test_several_models_are_listed_and_one_is_chosen_by_name(server, linear_model, picture):
    server.serve(linear_model(name="birds"))
    with pytest.raises(ModelNotChosenError, match=r"birds, scenes|scenes, birds"):
        Client(transport=server).explain(picture)
    assert Client(transport=server, model="birds").explain(picture).model == "birds"


def test_unknown_models_name_the_available_ones(server, empty_server, picture):
    server.other_models["resnet"] = ("logits",)
    for name in ("scene", "resnet"):
        with pytest.raises(ModelNotFoundError, match=f"{name}.*it serves: scenes"):
            Client(transport=server, model=name).explain(picture)
    with pytest.raises(ModelNotFoundError, match="salf export"):
        Client(transport=empty_server).explain(picture)


def test_a_model_that_is_loading_is_not_ready(server, picture):
    server.ready = False
    for name in (None, "scenes"):
        client = Client(transport=server, model=name)
        assert not client.is_ready()
        with pytest.raises(ServerNotReadyError, match="loading"):
            client.explain(picture)


def test_a_picture_that_the_caller_prepared_is_sent_as_it_is(client, server, linear_model):
    image = Image.fromarray(np.random.default_rng(5).integers(0, 256, (90, 150, 3), dtype=np.uint8))
    prepared = prepare(image, client.model().preparation)
    own, ours = client.explain(prepared), client.explain(image)
    assert np.array_equal(server.requests[-2][1]["image"], server.requests[-1][1]["image"])
    assert own.logits.tolist() == ours.logits.tolist()
    assert (own.source_size, own.crop_box) == (ours.source_size, ours.crop_box) == ((150, 90), ours.crop_box)
    server.serve(linear_model(version=2, size=(40, 40)))
    with pytest.raises(ContractMismatchError, match="prepared to"):
        client.explain(prepared)


def _set(name, value):
    return lambda tensors: tensors.update({name: np.asarray(value, dtype=tensors[name].dtype)})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t["logits"].fill(np.nan), "logits holds NaN"),
        (lambda t: t["top_maps"].fill(np.inf), "top_maps holds NaN"),
        (_set("logits", [[1, 2]]), "logits"),
        (_set("top_maps", np.zeros((1, 6, 5, 3))), r"top_maps.*\[1, 6, 3, 5\]"),
        (_set("coverage", [[1.5]]), "coverage"),
        (_set("target_class", [[9]]), "class 9"),
        (_set("target_class", [[0]]), "asked for class 1"),
        (_set("top_concepts", [[0, 1, 2, 3, 4, 99]]), "99"),
        (_set("top_concepts", [[0, -1, 2, 3, 4, 5]]), "unused slots"),
        (_set("contract_id", [[1]]), "contract_id"),
        (lambda t: t.update(bias=t["bias"].astype(np.float64)), "bias is float64"),
    ],
)
def test_answers_that_break_the_contract_are_refused(client, server, picture, spoil, words):
    server.spoil = spoil
    with pytest.raises(ContractMismatchError, match=words):
        client.explain(picture, target=1)
