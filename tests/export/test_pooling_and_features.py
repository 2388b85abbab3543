"""Softmax pooling, resized maps and graphs that start from features, through a whole export."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from onnx import numpy_helper
from tritonclient.grpc import model_config_pb2

from salf_contract import FROM_FEATURES_INPUTS, FROM_FEATURES_OUTPUTS, parse_metadata
from salf_export import FidelityError, OptionError, export_checkpoint, exporting
from salf_export.operators import operator_problems
from salf_export.runtime import GraphSession
from salf_training.backbone import BackboneSettings
from salf_training.checkpoint import Checkpoint, save_checkpoint
from salf_training.model import FeaturesBackbone, SalfModel

WHOLE = ("scenes", "scenes_from_features", "scenes_what_if", "scenes_all_scores", "scenes_all_maps")


@pytest.fixture(scope="module")
def exported(resizing_softmax: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("softmax")
    save_checkpoint(folder / "checkpoint", resizing_softmax)
    report = export_checkpoint(folder / "checkpoint", folder / "repository", name="scenes", from_features=True)
    assert report.models == (WHOLE[0], "scenes_encoded", *WHOLE[1:])
    assert {"all_maps", "all_scores", "top_maps", "sum", "coverage", "region_scores", "edited_logits"} <= set(
        report.fidelity.max_abs_error
    )
    assert 0 < max(report.fidelity.max_abs_error.values()) <= 1e-4
    return folder / "repository"


@pytest.fixture
def without_backbone(resizing_softmax: Checkpoint, tmp_path: Path) -> Path:
    """The head of the other checkpoint, alone."""
    card = resizing_softmax.card
    channels, rows, columns = card.feature_shape
    model = SalfModel(
        FeaturesBackbone(channels),
        channels=channels,
        concepts=len(resizing_softmax.concepts),
        classes=len(resizing_softmax.classes),
        pooling=card.pooling,
        map_size=card.map_size,
    )
    for name, values in resizing_softmax.model.named_buffers():
        if not name.startswith("backbone."):
            model.get_buffer(name).copy_(values)
    options = {"channels": channels, "height": rows, "width": columns}
    update = {"backbone": BackboneSettings(name="features", options=options)}
    save_checkpoint(
        tmp_path / "head",
        Checkpoint(model.eval(), card.model_copy(update=update), resizing_softmax.classes, resizing_softmax.concepts),
    )
    return tmp_path / "head"


def run(repository: Path, model: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    return GraphSession(onnx.load(repository / model / "1/model.onnx"), threads=1).run(inputs)


def test_published_answers_are_the_checkpoints(exported, resizing_softmax):
    pictures = np.random.default_rng(4).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = resizing_softmax.model(torch.from_numpy(pictures))
    target = np.array([[0], [5], [-1]], np.int32)
    explained = run(exported, "scenes", image=pictures, target=target)
    np.testing.assert_allclose(explained["logits"], expected.logits, atol=1e-4)
    assert explained["top_maps"].shape == (3, 16, 5, 4)
    maps = run(exported, "scenes_all_maps", image=pictures)["all_maps"]
    scores = run(exported, "scenes_all_scores", image=pictures)["all_scores"]
    np.testing.assert_allclose(maps, expected.maps, atol=1e-4)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
    whole = run(exported, "scenes_from_features", features=expected.features.numpy(), target=target)
    for name, values in explained.items():
        np.testing.assert_allclose(whole[name], values, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(whole["all_maps"], maps, atol=1e-4)
    np.testing.assert_allclose(whole["all_scores"], scores, atol=1e-4)


def test_published_graphs_stay_within_what_tensorrt_reads(exported):
    for name in WHOLE:
        assert operator_problems(onnx.load(exported / name / "1/model.onnx")) == ()


def test_documents_and_configs_say_pooling_and_sizes(exported):
    for name in WHOLE:
        document = parse_metadata((exported / name / "1/metadata.json").read_bytes())
        assert (document.pooling, document.map_size) == ("softmax", (5, 4))
    config = text_format.Parse(
        (exported / "scenes_from_features/config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    assert config.parameters["salf_role"].string_value == "from_features"
    assert [item.name for item in config.input] == [spec.name for spec in FROM_FEATURES_INPUTS]
    assert [item.name for item in config.output] == [spec.name for spec in FROM_FEATURES_OUTPUTS]
    document = parse_metadata((exported / "scenes_from_features/1/metadata.json").read_bytes())
    assert {item.name: list(item.dims) for item in config.output}["all_maps"] == [len(document.concepts), 5, 4]
    graph = onnx.load(exported / "scenes_from_features/1/model.onnx").graph
    for declared, value in zip((*config.input, *config.output), (*graph.input, *graph.output), strict=True):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert list(declared.dims) == dims[1:], f"NVIDIA's backend would refuse {declared.name}"


def test_a_checkpoint_without_a_backbone_becomes_one_model(without_backbone, exported, tmp_path):
    report = export_checkpoint(without_backbone, tmp_path / "r", name="head")
    assert report.models == ("head_from_features",)
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["head_from_features"]
    probe = np.load(exported / "scenes_from_features/1/probe.npz")
    inputs = {key.removeprefix("input:"): probe[key] for key in probe.files if key.startswith("input:")}
    assert set(inputs) == {"features", "target"}
    answer = run(tmp_path / "r", "head_from_features", **inputs)
    for name, values in answer.items():
        if name != "contract_id":  # another document
            np.testing.assert_allclose(values, probe[f"output:{name}"], atol=1e-5, err_msg=name)
    assert export_checkpoint(without_backbone, tmp_path / "r", name="head", from_features=True).version == 2


def test_a_checkpoint_without_a_backbone_takes_no_verification_pictures(without_backbone, tmp_path):
    with pytest.raises(OptionError, match="takes no pictures"):
        export_checkpoint(without_backbone, tmp_path / "r", name="head", pictures=np.zeros((1, 64, 96, 3), np.uint8))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("constant", ["score_scale", "centred_offset", "resize_matrix", "head_weight", "map_weight"])
@pytest.mark.parametrize("role", ["explain", "from_features"])
def test_a_tampered_softmax_graph_is_not_published(constant, role, resizing_softmax, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoint", resizing_softmax)
    honest = exporting.build_graphs

    def tampered(*args, **kwargs):
        graphs = honest(*args, **kwargs)
        tensor = next(t for t in graphs[role].graph.initializer if t.name == constant)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1e-2), constant))
        return {role: graphs[role]}

    monkeypatch.setattr(exporting, "build_graphs", tampered)
    with pytest.raises(FidelityError, match="TOO LARGE"):
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "r", name="scenes", from_features=True)
    assert not (tmp_path / "r").exists()


def test_a_graph_that_pools_by_the_average_is_not_published_for_softmax(resizing_softmax, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoint", resizing_softmax)
    honest = exporting.linear_head

    def averaging(model):
        return type(honest(model))(**{**vars(honest(model)), "pooling": "average"})

    monkeypatch.setattr(exporting, "linear_head", averaging)
    with pytest.raises(FidelityError, match=r"all_scores +\S+ +0.0001  TOO LARGE"):
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "r", name="scenes")
    assert not (tmp_path / "r").exists()
