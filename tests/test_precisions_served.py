"""int8 and OpenVINO through the real embedded Triton: what it answers is what the published files answer here."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton

from demonstration.paths import CHECKPOINT
from salf_client import Client
from salf_contract import metadata_in_parameters
from salf_export import Kind, export_checkpoint
from salf_export.openvino_model import load_files
from salf_export.runtime import GraphSession, Session
from salf_serving import RunningServer, Runtime, free_port, launch
from salf_training.scenes import write_scenes

PICTURES = CHECKPOINT.parent / "pictures"
KINDS = {
    "whole_int8": Kind("onnxruntime", "int8"),
    "ov_fp32": Kind("openvino", "fp32"),
    "ov_bf16": Kind("openvino", "bf16"),
    "ov_int8": Kind("openvino", "int8"),
}


@pytest.fixture(scope="module")
def served(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("precisions")
    write_scenes(folder / "calibration", count=48, first_seed=3_000_000, workers=1)
    write_scenes(folder / "held_out", count=100, first_seed=4_000_000, workers=1)
    for name, kind in KINDS.items():
        calibration = folder / "calibration" / "images" if kind.precision == "int8" else None
        held_out = folder / "held_out" if kind.is_reduced else None
        export_checkpoint(CHECKPOINT, folder / "models", name=name, kind=kind, calibration=calibration,
                          held_out=held_out)  # fmt: skip
    with launch(folder / "models", grpc_port=free_port(), log_file=folder / "triton.log", threads=2) as server:
        yield server, folder / "models"


def local(folder: Path) -> Session:
    if (folder / "model.xml").exists():
        return load_files({name: (folder / name).read_bytes() for name in ("model.xml", "model.bin")})
    return GraphSession(onnx.load(folder / "model.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_triton_answers_as_the_published_files_do(name: str, served: tuple[RunningServer, Path]):
    server, models = served
    found = {model.name: model for model in server.models}
    assert found[name].backend == KINDS[name].runtime
    assert found[name].probed
    pixels = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    target = np.array([[-1], [4], [-1]], np.int32)
    expected = local(models / name / "1").run({"image": pixels, "target": target})
    with triton.InferenceServerClient(server.grpc_address) as client:
        inputs = [triton.InferInput("image", list(pixels.shape), "UINT8"), triton.InferInput("target", [3, 1], "INT32")]
        inputs[0].set_data_from_numpy(pixels)
        inputs[1].set_data_from_numpy(target)
        answer = client.infer(name, inputs)
    for output, values in expected.items():
        np.testing.assert_allclose(answer.as_numpy(output), values, atol=1e-3, rtol=1e-3, err_msg=output)


@pytest.mark.slow
def test_clients_read_the_fidelity_of_what_they_ask(served: tuple[RunningServer, Path]):
    server, _ = served
    for name, kind in KINDS.items():
        with Client(server.grpc_address, model=name) as client:
            assert client.explain(PICTURES / "harbour.jpg", top=5).label == "harbour"
        with triton.InferenceServerClient(server.grpc_address) as connection:
            config = connection.get_model_config(name).config
        documents = metadata_in_parameters({key: value.string_value for key, value in config.parameters.items()})
        fidelity = documents[1].fidelity
        assert fidelity is not None
        assert fidelity.precision == kind.precision
        assert (fidelity.explanations is not None) == kind.is_reduced
