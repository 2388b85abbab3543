"""What post-hoc explanations cost beside ours: ResNet-50, one picture, the cost over a bare prediction.

ours         our explain graph over the graph of the bare prediction, both in ONNX Runtime
gradcam      captum's Grad-CAM on the last features over a forward pass, both in PyTorch on the same backbone
ig50         captum's integrated gradients, 50 steps, likewise

A post-hoc method needs a forward pass to know which class to explain; that pass is not counted for it here.
"""

from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from torch import Tensor, nn

from benchmarks.explain_cost import check_answers
from benchmarks.interleaved import time_interleaved
from benchmarks.networks import RESNET_50, SIZE, THREADS, backbone_of, graphs, load, random_model
from benchmarks.report import CannotMeasureError, Result
from salf_contract import PREDICTED_CLASS
from salf_training.model import SalfModel

STEPS = 50
_CHEAP_ROUNDS, _ROUNDS = 100, 8
_CHUNK = 10  # of the steps of integrated gradients: what two cores and little memory like


class Prediction(nn.Module):
    """Backbone, mean and one linear layer: FP32 [B,3,H,W], normalised -> logits FP32 [B,K]."""

    def __init__(self, model: SalfModel) -> None:
        super().__init__()
        self.backbone = model.backbone
        factor = model.head_weight / model.score_std
        self.weight = nn.Parameter(factor @ model.concept_weight.flatten(1), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits up to a constant, which no gradient sees."""
        features: Tensor = self.backbone(images)
        return features.mean(dim=(2, 3)) @ self.weight.T


def measure(*, quick: bool = False) -> Result:
    """Time ours in ONNX Runtime, and the others in PyTorch.

    Raises:
        CannotMeasureError: an explanation is wrong or empty.
    """
    torch.set_num_threads(THREADS)
    model = random_model(RESNET_50)
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)

    sessions = {name: load(graph) for name, graph in graphs(model, backbone_of(model)).items()}
    check_answers(sessions, pixels)
    question = {"image": pixels, "target": np.full((1, 1), PREDICTED_CLASS, np.int32)}
    ours = time_interleaved(
        {
            "prediction": lambda: sessions["logits"].run(None, {"image": pixels}),
            "ours": lambda: sessions["explain"].run(None, question),
        },
        rounds=5 if quick else _CHEAP_ROUNDS,
        warm_up=3,
    )

    predict = Prediction(model).eval()
    images = model.normalise(torch.from_numpy(pixels))
    with torch.inference_mode():
        target = int(predict(images).argmax())
    grad_cam = LayerGradCam(predict, predict.backbone)
    integrated = IntegratedGradients(predict)

    def forward() -> object:
        with torch.inference_mode():
            return predict(images)

    def explain_grad_cam() -> Any:
        return grad_cam.attribute(images.clone().requires_grad_(), target=target)

    def explain_integrated() -> Any:
        return integrated.attribute(images, target=target, n_steps=STEPS, internal_batch_size=_CHUNK)

    for name, explain in (("Grad-CAM", explain_grad_cam), ("integrated gradients", explain_integrated)):
        found = explain()
        if not (torch.isfinite(found).all() and found.any()):
            raise CannotMeasureError(f"the explanation by {name} is empty")
    others = time_interleaved(
        {"prediction": forward, "gradcam": explain_grad_cam, "ig50": explain_integrated},
        rounds=2 if quick else _ROUNDS,
        warm_up=1,
    )
    results = {"ours": (ours, "ours"), "gradcam": (others, "gradcam"), "ig50": (others, "ig50")}
    ratios = {f"{name}_over_prediction": timings.ratio(key, "prediction") for name, (timings, key) in results.items()}
    return Result(
        name="post_hoc",
        runs={
            "rounds": {"ours": _CHEAP_ROUNDS, "others": _ROUNDS} if not quick else {"ours": 5, "others": 2},
            "interleaved": "each round runs each once, in shuffled order; ratios are taken within a round",
            "frameworks": "ours over the bare prediction in ONNX Runtime, the others over it in PyTorch",
            "threads": THREADS,
        },
        figures={name: value for name, (value, _) in ratios.items()},
        spread={name: spread for name, (_, spread) in ratios.items()},
        notes={
            "onnxruntime_prediction_ms": ours.median_ms("prediction"),
            "ours_ms": ours.median_ms("ours"),
            "torch_prediction_ms": others.median_ms("prediction"),
            "gradcam_ms": others.median_ms("gradcam"),
            "ig50_ms": others.median_ms("ig50"),
        },
    )
