"""Engines built, served and compared on a GPU. Never run by us: docs/tensorrt.md says what that leaves open."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from PIL import Image

from salf_contract import ALL_SCORES_OUTPUTS, EXPLAIN_INPUTS, EXPLAIN_OUTPUTS, IMAGE_INPUT, PREDICTED_CLASS, TensorSpec
from salf_export import Kind, ServingSettings, Thresholds, export_checkpoint
from salf_export.backbone_graph import backbone_graph
from salf_export.folding import graph_head, linear_head
from salf_export.graphs import all_scores_graph, explain_graph, what_if_graph
from salf_export.kinds import Precision
from salf_export.runtime import GraphSession
from salf_export.tensorrt_api import engine_provenance
from salf_export.tensorrt_engine import PLAN_FILE, EngineSettings, build_engine
from salf_export.tensorrt_provider import TensorRtProvider
from salf_export.tensorrt_session import EngineSession
from salf_export.what_if_comparison import random_question
from salf_training.checkpoint import Checkpoint

ID = np.array([1, -2, 3, -4], np.int32)
#: Largest difference from PyTorch in any logit or score; these have a spread of about 1.
BOUNDS = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 3e-1}


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)


def expected(source: Checkpoint, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        answer = source.model(torch.from_numpy(images))
    return answer.logits.numpy(), answer.scores.numpy()


@pytest.fixture(scope="module")
def graphs(source: Checkpoint) -> dict[str, bytes]:
    backbone = backbone_graph(source.model, source.card.preparation)
    head = graph_head(linear_head(source.model))
    models = {
        "explain": explain_graph(backbone, head, top=6, contract_id=ID),
        "what_if": what_if_graph(backbone, head, contract_id=ID),
        "all_scores": all_scores_graph(backbone, head, contract_id=ID),
    }
    return {role: bytes(model.SerializeToString()) for role, model in models.items()}


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_an_engine_answers_as_pytorch(precision, batch, graphs, source):
    session = EngineSession(build_engine(graphs["explain"], EngineSettings(precision=precision, max_batch=8)))
    images = pictures(batch)
    logits, scores = expected(source, images)
    answer = session.run({"image": images, "target": np.full((batch, 1), PREDICTED_CLASS, np.int32)})
    np.testing.assert_allclose(answer["logits"], logits, atol=BOUNDS[precision])
    for row, shown in enumerate(answer["top_concepts"]):
        used = shown[shown >= 0]
        assert used.size
        np.testing.assert_allclose(answer["top_scores"][row, : used.size], scores[row, used], atol=BOUNDS[precision])
    assert (answer["contract_id"] == ID).all()


def test_a_what_if_engine_answers_as_onnx_runtime(graphs, source):
    import onnx

    question = random_question(3, concepts=len(source.concepts), map_size=source.card.feature_shape[1:],
                               random=np.random.default_rng(1))  # fmt: skip
    question |= {"image": pictures(3), "target": np.array([[PREDICTED_CLASS], [0], [5]], np.int32)}
    session = EngineSession(build_engine(graphs["what_if"], EngineSettings(precision="fp32")))
    wanted = GraphSession(onnx.load_model_from_string(graphs["what_if"])).run(question)
    for name, values in session.run(question).items():
        np.testing.assert_allclose(values, wanted[name], atol=1e-3, err_msg=name)


def test_the_timing_cache_of_one_build_serves_the_next(graphs, tmp_path):
    settings = EngineSettings(timing_cache=tmp_path / "timings")
    build_engine(graphs["all_scores"], settings)
    first = (tmp_path / "timings").read_bytes()
    assert first
    build_engine(graphs["all_scores"], settings)
    assert (tmp_path / "timings").stat().st_size >= len(first)


def test_provenance_names_release_and_gpu():
    found = engine_provenance()
    assert found["tensorrt_version"].startswith("10.")
    assert found["gpu"]


def test_triton_serves_a_plan_under_its_tensorrt_backend(
    graphs: dict[str, bytes], source: Checkpoint, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    folder = tmp_path / "models/tiny_all_scores"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / PLAN_FILE).write_bytes(build_engine(graphs["all_scores"], EngineSettings(precision="fp16")))
    (folder / "config.pbtxt").write_text(
        'name: "tiny_all_scores"\nbackend: "tensorrt"\nmax_batch_size: 8\n'
        'input [ { name: "image" data_type: TYPE_UINT8 dims: [ 64, 96, 3 ] } ]\n'
        'output [ { name: "all_scores" data_type: TYPE_FP32 dims: [ -1 ] },'
        ' { name: "contract_id" data_type: TYPE_INT32 dims: [ 4 ] } ]\n'
        "instance_group [ { kind: KIND_GPU count: 1 } ]\n"
    )
    images = pictures(3)
    answer = ask(serve(folder.parent), "tiny_all_scores", {"image": images}, (IMAGE_INPUT,), ALL_SCORES_OUTPUTS)
    np.testing.assert_allclose(answer["all_scores"], expected(source, images)[1], atol=BOUNDS["fp16"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", None])
def test_triton_serves_an_export_by_onnx_runtimes_providers(
    precision: str | None, checkpoint: Path, source: Checkpoint, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    cache = tmp_path / "engines"
    cache.mkdir()
    provider = None if precision is None else TensorRtProvider(precision=precision, cache_directory=str(cache))
    settings = ServingSettings(device="gpu", tensorrt=provider)
    # NVIDIA's image does not have the backend of the encoded endpoint.
    export_checkpoint(checkpoint, tmp_path / "models", name="tiny", settings=settings, encoded=False)
    images = pictures(3)
    question = {"image": images, "target": np.full((3, 1), PREDICTED_CLASS, np.int32)}
    answer = ask(serve(tmp_path / "models"), "tiny", question, EXPLAIN_INPUTS, EXPLAIN_OUTPUTS)
    np.testing.assert_allclose(answer["logits"], expected(source, images)[0], atol=BOUNDS[precision or "fp32"])
    assert bool(list(cache.iterdir())) == (precision is not None), "engines are kept if TensorRT built any"


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_whole_export_for_tensorrt_is_published_and_served(
    precision: Precision, checkpoint: Path, source: Checkpoint, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    (tmp_path / "held_out").mkdir()
    for number, pixels in enumerate(pictures(8)):
        Image.fromarray(pixels).save(tmp_path / "held_out" / f"{number}.png")
    report = export_checkpoint(
        checkpoint,
        tmp_path / "models",
        name="tiny",
        settings=ServingSettings(device="gpu", max_batch_size=4),
        bound=BOUNDS["fp32"],
        encoded=False,
        kind=Kind("tensorrt", precision),
        held_out=tmp_path / "held_out",
        # Random weights decide by a hair: classes and orders say nothing.
        thresholds=Thresholds(class_agreement=0, top5_overlap=0, top5_order=0, least_pictures=8),
    )
    assert report.fidelity.explanations is not None
    images = pictures(3)
    question = {"image": images, "target": np.full((3, 1), PREDICTED_CLASS, np.int32)}
    answer = ask(serve(tmp_path / "models"), "tiny", question, EXPLAIN_INPUTS, EXPLAIN_OUTPUTS)
    np.testing.assert_allclose(answer["logits"], expected(source, images)[0], atol=BOUNDS[precision])


def ask(
    address: str,
    model: str,
    question: dict[str, np.ndarray],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> dict[str, np.ndarray]:
    tensors = []
    for spec in inputs:
        tensor = triton.InferInput(spec.name, list(question[spec.name].shape), spec.datatype)
        tensor.set_data_from_numpy(question[spec.name])
        tensors.append(tensor)
    names = [spec.name for spec in outputs]
    with triton.InferenceServerClient(address) as client:
        answer = client.infer(model, tensors, outputs=[triton.InferRequestedOutput(name) for name in names])
    return {name: answer.as_numpy(name) for name in names}
