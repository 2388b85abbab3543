"""Model repositories for benchmarks of the server: real networks with random weights, made to explain."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from benchmarks.report import CannotMeasureError
from salf_contract import EXPLAIN_INPUTS, EXPLAIN_OUTPUTS, PREDICTED_CLASS, Preparation
from salf_export.backbone_graph import backbone_graph
from salf_export.folding import fold, linear_head
from salf_export.graphs import explain_graph
from salf_export.runtime import Arrays, GraphSession
from salf_training.backbone import BackboneSettings, build_backbone
from salf_training.model import SalfModel

SIZE, CONCEPTS, CLASSES, TOP = 224, 1000, 100, 16
_WEIGHTS_PER_CLASS = 30
_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}


def write_repository(folder: Path, *, name: str, backbone: str) -> GraphSession:
    """Write a model repository with one explain model and its probe.

    Args:
        folder: of the repository.
        name: of the model.
        backbone: a network of timm's; its weights are random.

    Returns:
        The graph, to compute right answers with.

    Raises:
        CannotMeasureError: its explanation is empty.
    """
    model = _random_model(backbone)
    graph = explain_graph(
        backbone_graph(model, Preparation(height=SIZE, width=SIZE)),
        fold(linear_head(model)),
        top=TOP,
        contract_id=np.arange(4, dtype=np.int32),
    )
    version = folder / name / "1"
    version.mkdir(parents=True)
    onnx.save(graph, version / "model.onnx")
    session = GraphSession(graph)
    question: Arrays = {"image": picture(0), "target": np.full((1, 1), PREDICTED_CLASS, np.int32)}
    answer = session.run(question)
    if not answer["top_maps"].any() or answer["top_concepts"].astype(np.int64).max() < 0:
        raise CannotMeasureError(f"{name} explains nothing")
    arrays: dict[str, Any] = {f"input:{key}": value for key, value in question.items()}
    arrays |= {f"output:{key}": value for key, value in answer.items()}
    np.savez(version / "probe.npz", **arrays)
    (folder / name / "config.pbtxt").write_text(_config(name, question, answer))
    return session


def picture(seed: int) -> NDArray[np.uint8]:
    """UINT8 [1,224,224,3] of noise."""
    return np.random.default_rng(seed).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)


def _config(name: str, inputs: Arrays, outputs: Arrays) -> str:
    def tensors(kind: str, names: list[str], arrays: Arrays) -> list[str]:
        return [
            f'{kind} [ {{ name: "{key}" data_type: {_TYPES[array.dtype.name]} dims: {list(array.shape[1:])} }} ]'
            for key, array in ((name, arrays[name]) for name in names)
        ]

    lines = [f'name: "{name}"', 'backend: "onnxruntime"', "max_batch_size: 8"]
    lines += tensors("input", [spec.name for spec in EXPLAIN_INPUTS], inputs)
    lines += tensors("output", [spec.name for spec in EXPLAIN_OUTPUTS], outputs)
    lines += ["instance_group [ { kind: KIND_CPU count: 1 } ]", "dynamic_batching { preferred_batch_size: [ 4, 8 ] }"]
    return "\n".join([*lines, ""])


def _random_model(backbone: str) -> SalfModel:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    network = build_backbone(BackboneSettings(name=backbone))
    with torch.no_grad():
        channels = int(network.eval()(torch.zeros(1, 3, SIZE, SIZE)).shape[1])
    model = SalfModel(network, channels=channels, concepts=CONCEPTS, classes=CLASSES)
    model.pixel_mean.fill_(0.45)
    model.pixel_std.fill_(0.225)
    # Give BatchNorm statistics of its own inputs, so that features have ordinary sizes.
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model.features(torch.randint(0, 256, (4, SIZE, SIZE, 3), dtype=torch.uint8))
    model.eval()
    model.concept_weight.normal_(std=channels**-0.5)
    weights = random.normal(scale=_WEIGHTS_PER_CLASS**-0.5, size=(CLASSES, CONCEPTS))
    sparse = np.where(random.random(weights.shape) < _WEIGHTS_PER_CLASS / CONCEPTS, weights, 0.0)
    model.head_weight.copy_(torch.from_numpy(sparse))
    model.head_bias.copy_(torch.from_numpy(random.normal(size=CLASSES)))
    return model
