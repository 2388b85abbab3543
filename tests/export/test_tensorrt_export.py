"""A whole export to TensorRT without a GPU: a double builds the engines, ONNX Runtime computes them."""

import sys

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from onnx import TensorProto
from PIL import Image
from tritonclient.grpc import model_config_pb2

from salf_contract import parse_manifest
from salf_export import (
    Kind,
    MissingExtraError,
    ServingSettings,
    Thresholds,
    export_checkpoint,
    exporting,
    tensorrt_session,
)
from salf_export.operators import operator_problems
from salf_export.runtime import GraphSession

from .tensorrt_double import PLAN, TensorRtDouble


@pytest.fixture
def gpu(monkeypatch, source):
    """The double as the installed `tensorrt`, a GPU that torch finds, and engines that ONNX Runtime computes."""
    exporting.backbone_graph(source.model, source.card.preparation)  # torch exports it while it sees no GPU
    api = TensorRtDouble()

    class Engine:
        """Takes no more pictures than the profile that it was built with."""

        def __init__(self, plan: bytes) -> None:
            assert plan == PLAN
            self.largest = api.called("set_shape")[-1][3][0]
            session = GraphSession(onnx.load_model_from_string(api.called("parse")[-1][0]), threads=1)
            self.runtime, self.input_names, self.output_names = (
                "tensorrt 10.7.0",
                session.input_names,
                session.output_names,
            )
            self.session = session

        def run(self, inputs):
            assert {len(inputs[name]) for name in self.input_names} <= set(range(1, self.largest + 1))
            return self.session.run(inputs)

    monkeypatch.setitem(sys.modules, "tensorrt", api)
    monkeypatch.setattr(tensorrt_session, "EngineSession", Engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    return api


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name in ("calibration", "held_out"):
        (folder / name).mkdir()
        for number in range(8):
            pixels = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(("precision", "max_batch"), [("fp16", 2), ("int8", 16)])
def test_a_whole_export_becomes_plans_that_say_what_they_are_bound_to(
    precision, max_batch, gpu, checkpoint, pictures, tmp_path
):
    lenient = Thresholds(class_agreement=0, top5_overlap=0, top5_order=0, map_cosine=0, least_pictures=8)
    report = export_checkpoint(
        checkpoint,
        tmp_path / "r",
        name="tiny",
        settings=ServingSettings(max_batch_size=max_batch, device="gpu"),
        kind=Kind("tensorrt", precision),
        calibration=pictures / "calibration" if precision == "int8" else None,
        held_out=pictures / "held_out",
        thresholds=lenient,
    )
    assert report.fidelity.runtime == "tensorrt 10.7.0"
    assert report.fidelity.precision == precision
    for name in ("tiny", "tiny_what_if", "tiny_all_scores", "tiny_all_maps"):
        assert (tmp_path / "r" / name / "1/model.plan").read_bytes() == PLAN
        config = text_format.Parse((tmp_path / "r" / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert (config.backend, config.max_batch_size) == ("tensorrt", max_batch)
        assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
        provenance = parse_manifest((tmp_path / "r" / name / "1/manifest.json").read_bytes()).provenance
        assert provenance["tensorrt_version"] == "10.7.0"
        assert (provenance["gpu"], provenance["gpu_compute_capability"]) == ("NVIDIA L4", "8.9")
    _, smallest, optimal, largest = gpu.called("set_shape")[-1]
    assert (smallest[0], optimal[0], largest[0]) == (1, max_batch, max(8, max_batch)), "comparisons ask for up to 8"
    graphs = [onnx.load_model_from_string(parsed) for (parsed,) in gpu.called("parse")]
    assert [operator_problems(graph) for graph in graphs] == [()] * len(graphs)
    quantised_types = {
        tensor.data_type for graph in graphs for tensor in graph.graph.initializer
    } & {TensorProto.INT8, TensorProto.UINT8}  # fmt: skip
    assert quantised_types == ({TensorProto.INT8} if precision == "int8" else set())


def test_a_machine_with_tensorrt_and_no_gpu_is_refused_before_anything_is_read(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingExtraError, match=r"needs an NVIDIA GPU.*server's own image"):
        export_checkpoint(tmp_path / "none", tmp_path / "r", name="tiny", kind=Kind("tensorrt", "fp32"))
