"""The encoded backend's own logic, outside Triton; test_encoded.py runs it inside."""

import importlib.util
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from encoded_stub import Metric, Response, Tensor, TritonError, TritonModelException, stub_module
from PIL import Image

import salf_serving
from salf_contract import EXPLAIN_OUTPUTS, PROBE_REQUEST_ID, Metadata, PictureLimits, Preparation

FOLDER = Path(salf_serving.__file__).parent / "backends" / "salf_encoded"
CLASSES, CONCEPTS = ("a", "b"), ("x", "y", "z")


@pytest.fixture
def triton(monkeypatch):
    fake = stub_module()
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield fake
    for name in [name for name in sys.modules if name.partition(".")[0] == "encoded_endpoint"]:
        del sys.modules[name]


def document(version=1, **preparation):
    return Metadata(
        name="scenes", version=version, classes=CLASSES, concepts=CONCEPTS, pooling="average", map_size=(1, 1), top=2,
        preparation=Preparation(height=4, width=6, **preparation),
    )  # fmt: skip


def answer(by, rows):
    values = {
        "target_class": np.ones((rows, 1), np.int32),
        "top_concepts": np.tile(np.array([[2, 0]], np.int32), (rows, 1)),
        "coverage": np.full((rows, 1), 0.5, np.float32),
        "contract_id": np.tile(by.contract_id_words(), (rows, 1)),
    }
    filler = np.arange(rows, dtype=np.float32)[:, None]
    return Response([Tensor(spec.name, values.get(spec.name, filler)) for spec in EXPLAIN_OUTPUTS])


@pytest.fixture
def load(triton, tmp_path, monkeypatch):
    """Open the backend on version 1 of a model; the process's own Pillow limits are put back."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(np, "__version__", "1.26.4")
    (tmp_path / "1").mkdir()
    (tmp_path / "1/metadata.json").write_text(document().to_json())
    models = []

    def run(*, max_batch_size=0, **parameters):
        spec = importlib.util.spec_from_file_location("salf_encoded_backend", FOLDER / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys.modules["encoded_endpoint.memory"], "ctypes", SimpleNamespace(CDLL=lambda _n: None))
        monkeypatch.setattr(sys.modules["encoded_endpoint.observations"], "_FLUSH_S", 60)
        model = module.TritonPythonModel()
        config = {
            "max_batch_size": max_batch_size,
            "parameters": {key: {"string_value": value} for key, value in parameters.items()},
        }
        model.initialize({"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1",
                          "model_name": "scenes_encoded"})  # fmt: skip
        models.append(model)
        return model

    yield run
    for model in models:
        model.finalize()


def request(*files, cancelled=False, name="id", parameters=""):
    inputs = {
        "encoded": Tensor("encoded", np.array([[file] for file in files], dtype=np.object_)),
        "target": Tensor("target", np.full((len(files), 1), -1, np.int32)),
    }
    return SimpleNamespace(
        inputs=inputs, requested_output_names=lambda: ["logits", "crop_box"], is_cancelled=lambda: cancelled,
        request_id=lambda: name, trace=lambda: None, parameters=lambda: parameters,
    )  # fmt: skip


def png(width=12, height=8):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (9, 8, 7)).save(file, "PNG")
    return file.getvalue()


def test_good_requests_are_asked_at_once_and_bad_ones_get_their_own_errors(load, triton):
    model = load()
    triton.explain = lambda inputs: answer(document(), len(inputs["image"]))
    missing = request(png())
    del missing.inputs["target"]
    responses = model.execute(
        [request(png()), request(b"bad"), request(png(), png()), request(png(), cancelled=True), missing]
    )
    assert len(triton.asked) == 1
    assert responses[0].outputs["logits"].tolist() == [[0]]
    assert responses[2].outputs["logits"].tolist() == [[1], [2]]
    assert responses[2].outputs["crop_box"].tolist() == [[0, 0, 12, 8]] * 2
    errors = [(one.error().message().partition(":")[0], one.error().code()) for one in responses if one.error()]
    assert errors == [
        ("PICTURE_UNSUPPORTED", TritonError.INVALID_ARG),
        ("REQUEST_CANCELLED", TritonError.CANCELLED),
        ("REQUEST_INVALID", TritonError.INVALID_ARG),
    ]


def test_triton_is_asked_who_gave_up_only_when_a_whole_batch_waits(load, triton):
    model = load(max_batch_size=3)
    triton.explain = lambda inputs: answer(document(), len(inputs["image"]))
    few = model.execute([request(png()), request(png(), cancelled=True)])
    assert [one.has_error() for one in few] == [False, False]
    whole = model.execute([request(png(), png()), request(png(), cancelled=True)])
    assert [one.has_error() for one in whole] == [False, True]
    assert whole[1].error().code() == TritonError.CANCELLED


def test_a_decoder_has_seen_each_kind_of_picture_before_it_counts_as_loaded(load, triton, monkeypatch):
    seen, really_open = [], Image.open

    def look(*given, **named):
        image = really_open(*given, **named)
        seen.append(image.format)
        return image

    monkeypatch.setattr(Image, "open", look)
    model = load(max_pixels="5", max_bytes="5")
    assert seen == ["JPEG", "PNG", "WEBP"]
    model.observations.hand_over()
    assert not triton.values, "a warm-up is no traffic"


def test_another_preparation_of_the_answering_version_is_followed(load, triton, tmp_path):
    model, newer = load(), document(2, crop_fraction=0.5)
    (tmp_path / "2").mkdir()
    (tmp_path / "2/metadata.json").write_text(newer.to_json())
    triton.explain = lambda inputs: answer(newer, len(inputs["image"]))
    (response,) = model.execute([request(png())])
    assert len(triton.asked) == 2
    assert response.outputs["crop_box"].tolist() == [[3, 2, 9, 6]]
    model.execute([request(png())])
    assert len(triton.asked) == 3


def test_a_version_that_was_published_anew_is_read_by_what_answers(load, triton, tmp_path):
    """Two documents of one version: the endpoint begins with the old one."""
    model, anew = load(), document(1, crop_fraction=0.5)
    (tmp_path / "1/metadata.json").write_text(anew.to_json())
    triton.explain = lambda inputs: answer(anew, len(inputs["image"]))
    pin = json.dumps({"salf_explain_version": 1})
    for asked in (2, 3):
        (response,) = model.execute([request(png(), parameters=pin)])
        assert response.outputs["crop_box"].tolist() == [[3, 2, 9, 6]]
        assert len(triton.asked) == asked


def test_an_explain_model_that_changes_at_each_answer_is_given_up_after_two(load, triton, tmp_path):
    model = load()
    documents = [document(), document(2, crop_fraction=0.5)]
    (tmp_path / "2").mkdir()
    (tmp_path / "2/metadata.json").write_text(documents[1].to_json())
    triton.explain = lambda inputs: answer(documents[len(triton.asked) % 2], len(inputs["image"]))
    (response,) = model.execute([request(png())])
    assert response.error().message().startswith("MODEL_UNAVAILABLE: ")
    assert response.error().code() == TritonError.UNAVAILABLE
    assert len(triton.asked) == 2


def test_an_unknown_document_and_a_missing_model_are_unavailable(load, triton):
    model = load()
    triton.explain = lambda inputs: answer(document(9), len(inputs["image"]))
    (unknown,) = model.execute([request(png())])

    def missing(_inputs):
        raise TritonModelException("not found")

    triton.explain = missing
    (gone,) = model.execute([request(png())])
    triton.explain = lambda _inputs: Response([], TritonError("queue full", TritonError.UNAVAILABLE))
    (full,) = model.execute([request(png())])
    for response in (unknown, gone, full):
        assert response.error().code() == TritonError.UNAVAILABLE
        assert response.error().message().startswith("MODEL_UNAVAILABLE: ")


def test_a_pinned_version_is_prepared_and_asked_on_its_own(load, triton, tmp_path):
    other = document(2, crop_fraction=0.5)
    (tmp_path / "2").mkdir()
    (tmp_path / "2/metadata.json").write_text(other.to_json())
    asked = []

    def explain(inputs):
        version = triton.asked[-1]["model_version"]
        asked.append((version, len(inputs["image"])))
        return answer(other if version == 2 else document(), len(inputs["image"]))

    triton.explain = explain
    pin = json.dumps({"salf_explain_version": 2})
    responses = load().execute([request(png()), request(png(16, 8), parameters=pin), request(png())])
    assert not any(response.has_error() for response in responses)
    assert asked == [(-1, 2), (2, 1)]
    assert [response.outputs["crop_box"][0].tolist() for response in responses] == [
        [0, 0, 12, 8], [5, 2, 11, 6], [0, 0, 12, 8],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "said", "code"),
    [
        ({"salf_explain_version": 9}, "VERSION_NOT_SERVED: model scenes version 9", TritonError.NOT_FOUND),
        ({"salf_explain_version": 0}, "REQUEST_INVALID: parameter salf_explain_version", TritonError.INVALID_ARG),
        ({"salf_explain_version": True}, "REQUEST_INVALID: parameter salf_explain_version", TritonError.INVALID_ARG),
        ({"salf_explain_version": "two"}, "REQUEST_INVALID: parameter salf_explain_version", TritonError.INVALID_ARG),
    ],
)
def test_a_version_that_cannot_be_asked_has_its_own_error(load, triton, parameters, said, code):
    triton.explain = lambda inputs: answer(document(), len(inputs["image"]))
    bad, good = load().execute([request(png(), parameters=json.dumps(parameters)), request(png())])
    assert bad.error().message().startswith(said)
    assert bad.error().code() == code
    assert not good.has_error()


def test_a_pinned_version_that_was_unloaded_is_not_served(load, triton):
    triton.explain = lambda _inputs: Response([], TritonError("not at ready state", TritonError.UNAVAILABLE))
    (bad,) = load().execute([request(png(), parameters=json.dumps({"salf_explain_version": "1"}))])
    assert bad.error().message().startswith("VERSION_NOT_SERVED: model scenes version 1 cannot be asked (not at ready")


def test_series_of_concepts_are_bounded(load, triton):
    model = load(max_concept_series="1")
    triton.explain = lambda inputs: answer(document(), len(inputs["image"]))
    model.execute([request(png(), png())])
    model.observations.explained(document(), {**answer(document(), 1).outputs, "top_concepts": np.array([[1, 0]])})
    model.observations.hand_over()
    series = {dict(key[1:])["concept"]: value for key, value in triton.values.items() if key[0][:8] == "salf_top"}
    assert series == {"z": 2, "other": 1}


def test_probes_are_no_traffic(load, triton):
    model = load()
    triton.explain = lambda inputs: answer(document(), len(inputs["image"]))
    responses = model.execute([request(png(), name=PROBE_REQUEST_ID), request(png(), png())])
    assert [len(response.outputs["logits"]) for response in responses] == [1, 2]
    model.observations.hand_over()
    values = {key[0]: 0 for key in triton.values}
    for key, value in triton.values.items():
        values[key[0]] += value
    assert values["salf_explanations_total"] == values["salf_top_concepts_total"] == 2
    assert values["salf_explanation_seconds"] == 4, "one request in four stages"


def test_failed_probes_are_no_failures_of_clients(load, triton):
    model = load()

    def missing(_inputs):
        raise TritonModelException("not found")

    triton.explain = missing
    model.execute([request(png(), name=PROBE_REQUEST_ID), request(b"bad", name=PROBE_REQUEST_ID), request(png())])
    model.observations.hand_over()
    failures = {key: value for key, value in triton.values.items() if key[0] == "salf_failures_total"}
    assert list(failures.values()) == [1]


def test_lost_metrics_do_not_pile_up(load, triton, monkeypatch):
    model = load()
    monkeypatch.setattr(Metric, "increment", lambda *_: 1 / 0)
    triton.explain = lambda inputs: answer(document(), len(inputs["image"]))
    model.execute([request(png())])
    model.observations.stop()
    assert any("metrics of half a second are lost" in line for line in triton.log)
    assert not model.observations._counts


def test_limits_come_from_the_configuration(load):
    assert load().limits == PictureLimits()
    assert load(max_pixels="5", salf_anything="x").limits == PictureLimits(max_pixels=5)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({"max_pixel": "5"}, "unknown parameter 'max_pixel'.*max_pixels"), ({"max_side": "0"}, "'max_side' must be")],
)
def test_wrong_settings_are_refused(load, parameters, words):
    with pytest.raises(TritonModelException, match=f"scenes_encoded version 1: .*{words}"):
        load(**parameters)
