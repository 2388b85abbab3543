"""What OpenVINO computes in each precision, and how the published files are read."""

import numpy as np
import openvino
import pytest
from explaining import asked, graph_of

from salf_export import Kind
from salf_export.artefacts import make_artefact
from salf_export.graph_builder import tensor_dims
from salf_export.openvino_model import to_openvino
from salf_export.runtime import GraphSession


def test_int8_in_the_first_blocks_means_the_same_in_both_runtimes(demonstration, quantiser, calibration):
    """OpenVINO 2026.4 lost a convolution's bias when the graph asked for a shape behind it."""
    pytest.importorskip("openvino")
    graph = graph_of(demonstration, quantiser.quantise(keep=quantiser.blocks[2:]))
    answers = [
        make_artefact(graph, Kind(runtime, "int8")).session.run(asked(calibration[:8]))["logits"]
        for runtime in ("onnxruntime", "openvino")
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=0.3)


def test_bf16_is_in_the_backbone_alone_and_sums_stay_exact(demonstration, backbone, calibration):
    graph = graph_of(demonstration, backbone)
    model = to_openvino(graph, bf16=True)
    products = [op for op in model.get_ordered_ops() if op.get_type_name() in ("Convolution", "MatMul")]
    in_bf16 = {op.get_friendly_name().partition("/")[0]: op.get_output_element_type(0) for op in products}
    assert in_bf16.pop("backbone") == openvino.Type.bf16
    assert set(in_bf16.values()) == {openvino.Type.f32}
    answer = make_artefact(graph, Kind("openvino", "bf16")).session.run(asked(calibration[:8]))
    exact = GraphSession(graph).run(asked(calibration[:8]))
    assert 1e-3 < np.abs(answer["logits"] - exact["logits"]).max() < 0.5, "it is bf16, and close"
    total = answer["top_contributions"].sum(1) + answer["rest_contribution"][:, 0] + answer["bias"][:, 0]
    np.testing.assert_allclose(total, np.take_along_axis(answer["logits"], answer["target_class"], 1)[:, 0], atol=2e-4)


def test_the_published_ir_is_read_as_the_native_backend_reads_it(demonstration, quantiser, calibration, tmp_path):
    """Element types and layout set on every input, then a fixed batch: src/openvino.cc, ValidateInputs.

    Then it wants every output's dims to be those of config.pbtxt exactly: ValidateOutputs.
    """
    graph = graph_of(demonstration, quantiser.quantise())
    artefact = make_artefact(graph, Kind("openvino", "int8"))
    for name, content in artefact.files.items():
        (tmp_path / name).write_bytes(content)
    model = openvino.Core().read_model(tmp_path / "model.xml")
    steps = openvino.preprocess.PrePostProcessor(model)
    for name, kind in (("image", openvino.Type.u8), ("target", openvino.Type.i32)):
        steps.input(name).tensor().set_element_type(kind).set_layout(openvino.Layout("N..."))
    model = steps.build()
    openvino.set_batch(model, 8)
    for name, dims in tensor_dims(graph).items():
        if name not in ("image", "target"):
            assert model.output(name).partial_shape == openvino.PartialShape([8, *dims]), name
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = compiled(asked(calibration[:8]))
    expected = artefact.session.run(asked(calibration[:8]))
    for name, values in expected.items():
        np.testing.assert_allclose(answer[name], values, atol=1e-4, err_msg=name)
