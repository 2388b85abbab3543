"""What-if questions through the real Triton: weights shared between models, a TensorRT section that a CPU ignores."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

from salf_contract import EDIT_SLOTS, NO_CONCEPT, PREDICTED_CLASS, WHAT_IF_INPUTS, WHAT_IF_OUTPUTS
from salf_export import ServingSettings, export_checkpoint, shared_weights
from salf_export.tensorrt_provider import TensorRtProvider
from salf_serving import RunningServer, Runtime, free_port, launch
from salf_training import operations
from salf_training.checkpoint import Checkpoint, save_checkpoint

from .export.conftest import random_checkpoint

BATCH = 3


@pytest.fixture(scope="module")
def source() -> Checkpoint:
    return random_checkpoint(pooling="softmax", map_size=(5, 4))


@pytest.fixture(scope="module")
def server(source: Checkpoint, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("what-if")
    save_checkpoint(folder / "checkpoint", source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_weights, "LEAST_FILE_BYTES", 1)
        report = export_checkpoint(
            folder / "checkpoint",
            folder / "models",
            name="tiny",
            settings=ServingSettings(device="auto", tensorrt=TensorRtProvider(cache_directory="/var/cache/tensorrt")),
        )
    names = {path.name for path in (folder / "models").rglob("weights_*.bin")}
    inodes = {path.stat().st_ino for path in (folder / "models").rglob("weights_*.bin")}
    assert names
    assert len(inodes) == len(names), "each is stored once"
    with launch(folder / "models", grpc_port=free_port(), log_file=folder / "triton.log", threads=1) as running:
        assert {(model.name, model.probed) for model in running.models} == {(name, True) for name in report.models}
        assert "no effect on this server: gpu_execution_accelerator" in (folder / "triton.log").read_text()
        yield running


def test_triton_answers_a_batch_of_what_if_questions_as_the_operations_do(server, source):
    random = np.random.default_rng(5)
    model, concepts = source.model, len(source.concepts)
    question = {
        "image": random.integers(0, 256, (BATCH, 64, 96, 3), dtype=np.uint8),
        "target": np.array([[PREDICTED_CLASS], [0], [4]], np.int32),
        "region": random.random((BATCH, 5, 4)).astype(np.float32),
        "edit_concepts": np.full((BATCH, EDIT_SLOTS), NO_CONCEPT, np.int32),
        "edit_strengths": random.normal(size=(BATCH, EDIT_SLOTS)).astype(np.float32),
        "edit_masks": random.random((BATCH, EDIT_SLOTS, 5, 4)).astype(np.float32),
    }
    question["edit_concepts"][0] = [7, 3, 7, 0, 12, 1, 39, concepts - 1]  # as many as there may be, some twice
    question["edit_concepts"][1:, [0, 3, 7]] = [[0, 1, 2], [3, NO_CONCEPT, 3]]
    answer = ask(server, question)

    with torch.inference_mode():
        plain = model(torch.from_numpy(question["image"]))
    maps, z, logits = (values.double().numpy() for values in (plain.maps, plain.scores, plain.logits))
    weight, bias = model.head_weight.double().numpy(), model.head_bias.double().numpy()
    mean, std = model.score_mean.double().numpy(), model.score_std.double().numpy()
    assert answer["target_class"].tolist() == [[int(logits[0].argmax())], [0], [4]]
    np.testing.assert_allclose(answer["logits"], logits, atol=1e-3)
    for row, k in enumerate(answer["target_class"][:, 0]):
        edits = [
            operations.Edit(int(concept), float(strength) * std[concept], mask.astype(np.float64))
            for concept, strength, mask in zip(
                *(question[name][row] for name in ("edit_concepts", "edit_strengths", "edit_masks")), strict=True
            )
            if concept != NO_CONCEPT
        ]
        one = maps[row : row + 1]
        here = operations.region_scores(one, question["region"][row], mean=mean, std=std, pooling="softmax")[0]
        np.testing.assert_allclose(answer["region_scores"][row], here, atol=1e-3)
        after = operations.edited_scores(one, edits, mean=mean, std=std, pooling="softmax")[0]
        np.testing.assert_allclose(answer["contributions"][row], weight[k] * z[row], atol=1e-3)
        np.testing.assert_allclose(answer["edited_contributions"][row], weight[k] * after, atol=1e-3)
        np.testing.assert_allclose(answer["edited_logits"][row], weight @ after + bias, atol=1e-3)
    assert np.abs(answer["edited_logits"] - answer["logits"]).max() > 0.01


def ask(server: RunningServer, question: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    inputs = []
    for spec in WHAT_IF_INPUTS:
        tensor = triton.InferInput(spec.name, list(question[spec.name].shape), spec.datatype)
        tensor.set_data_from_numpy(question[spec.name])
        inputs.append(tensor)
    outputs = [spec.name for spec in WHAT_IF_OUTPUTS]
    with triton.InferenceServerClient(server.grpc_address) as client:
        answer = client.infer("tiny_what_if", inputs, outputs=[triton.InferRequestedOutput(name) for name in outputs])
    return {name: answer.as_numpy(name) for name in outputs}
