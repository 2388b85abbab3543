"""Networks of real size with random weights (they do not matter for speed), and the graphs that benchmarks compare.

logits       backbone + one K x C linear layer: the price of a bare prediction
explain      our explain graph, 16 maps, a sparse head with NEC 30 as published heads have
dense_head   our explain graph for a dense head, which has to compute all z (average pooling)
all_maps     the naive graph: all maps as a convolution, pooled, normalised, head; maps and logits are the answer
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.report import CannotMeasureError
from salf_contract import ALL_MAPS_OUTPUTS, EXPLAIN_OUTPUTS, Preparation
from salf_export.backbone_graph import backbone_graph
from salf_export.folding import FoldedHead, LinearHead, fold, graph_head, linear_head
from salf_export.graph_builder import GraphBuilder
from salf_export.graphs import all_maps_graph, explain_graph
from salf_training.backbone import BackboneSettings, build_backbone
from salf_training.model import SalfModel

CONCEPTS, CLASSES, SIZE, TOP = 4741, 1000, 224, 16
CONCEPTS_PER_CLASS = 30
THREADS = 2
CONTRACT_ID = np.arange(4, dtype=np.int32)
_LOGITS = next(spec for spec in EXPLAIN_OUTPUTS if spec.name == "logits")
_MAPS = next(spec for spec in ALL_MAPS_OUTPUTS if spec.name == "all_maps")


@dataclass(frozen=True)
class Network:
    """A backbone of real size: timm's name, and the channels and cells (a side) of its features."""

    name: str
    channels: int
    cells: int


RESNET_50 = Network("resnet50", 2048, 7)
EFFICIENTNET_LITE0 = Network("tf_efficientnet_lite0", 1280, 7)
VIT_B16 = Network("vit_base_patch16_224", 768, 14)


def random_model(
    network: Network,
    *,
    pooling: Literal["average", "softmax"] = "average",
    concepts: int = CONCEPTS,
    classes: int = CLASSES,
) -> SalfModel:
    """A model with random weights whose numbers have ordinary sizes, and a head with NEC 30.

    Raises:
        CannotMeasureError: the backbone's features have another shape than expected.
    """
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = SalfModel(
        build_backbone(BackboneSettings(name=network.name)),
        channels=network.channels,
        concepts=concepts,
        classes=classes,
        pooling=pooling,
    )
    model.pixel_mean.fill_(0.45)
    model.pixel_std.fill_(0.225)
    # Give BatchNorm statistics of its own inputs, so that features have ordinary sizes.
    normalising = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in normalising:
        module.momentum = 1.0
    model.train(bool(normalising))
    with torch.no_grad():
        features = model.features(torch.randint(0, 256, (4, SIZE, SIZE, 3), dtype=torch.uint8))
    model.eval()
    expected = (network.channels, network.cells, network.cells)
    if tuple(features.shape[1:]) != expected:
        raise CannotMeasureError(f"{network.name} gives {tuple(features.shape[1:])}, expected {expected}")
    model.concept_weight.normal_(std=network.channels**-0.5)
    head = random_head(density=CONCEPTS_PER_CLASS / concepts, concepts=concepts, classes=classes)
    model.head_weight.copy_(torch.from_numpy(head))
    model.head_bias.copy_(torch.from_numpy(random.normal(size=classes)))
    return model


def random_head(*, density: float, concepts: int = CONCEPTS, classes: int = CLASSES) -> NDArray[np.float64]:
    """W_g FP64 [K,M]; the number of non-zero weights varies from class to class, as in fitted heads."""
    random = np.random.default_rng(1)
    weights = random.normal(scale=(concepts * density) ** -0.5, size=(classes, concepts))
    return np.where(random.random(weights.shape) < density, weights, 0.0)


def backbone_of(model: SalfModel) -> ModelProto:
    """The backbone's graph, from pixels to features."""
    return backbone_graph(model, Preparation(height=SIZE, width=SIZE))


def graphs(model: SalfModel, backbone: ModelProto) -> dict[str, ModelProto]:
    """The contenders behind one backbone, by name; under softmax pooling there is no dense head of its own."""
    sparse = linear_head(model)
    average = fold(replace(sparse, pooling="average"))  # under softmax pooling too: the price of one linear layer
    found = {
        "logits": _logits_graph(backbone, average),
        "explain": explain_graph(backbone, graph_head(sparse), top=TOP, contract_id=CONTRACT_ID),
    }
    if model.pooling == "softmax":
        return found | {"all_maps": all_maps_graph(backbone, graph_head(sparse), contract_id=CONTRACT_ID)}
    dense = LinearHead(**{**vars(sparse), "head_weight": random_head(density=1.0)})
    return found | {
        "dense_head": explain_graph(backbone, fold(dense), top=TOP, contract_id=CONTRACT_ID),
        "all_maps": _naive_graph(backbone, average, sparse),
    }


def load(graph: ModelProto, *, spins: bool = True) -> onnxruntime.InferenceSession:
    """A session on two threads that do not spin while another session is timed.

    Args:
        graph: any.
        spins: whether threads that wait for the next operator of a running inference spin, ONNX Runtime's default.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _logits_graph(backbone: ModelProto, head: FoldedHead) -> ModelProto:
    graph = GraphBuilder(backbone)
    mean = graph.add("GlobalAveragePool", graph.features, name="mean_features_map")
    flat = graph.add("Flatten", mean, name="mean_features", axis=1)
    weight, offset = graph.constant("weight", head.logit_weight), graph.constant("offset", head.logit_offset)
    graph.add("Gemm", flat, weight, offset, name="logits", transB=1)
    return graph.finish([(_LOGITS, [CLASSES])], name="logits")


def _naive_graph(backbone: ModelProto, folded: FoldedHead, head: LinearHead) -> ModelProto:
    graph = GraphBuilder(backbone)
    weight = graph.constant("map_weight", folded.map_weight[:, :, None, None])
    maps = graph.add("Conv", graph.features, weight, graph.constant("map_offset", folded.map_offset), name="all_maps")
    mean = graph.add("GlobalAveragePool", maps, name="pooled_map")
    flat = graph.add("Flatten", mean, name="pooled", axis=1)
    scale = graph.constant("inverse_std", (1 / head.score_std).astype(np.float32))
    centred = graph.add("Sub", flat, graph.constant("mean", head.score_mean.astype(np.float32)), name="centred")
    scores = graph.add("Mul", centred, scale, name="scores")
    head_weight, bias = graph.constant("head_weight", folded.head_weight), graph.constant("head_bias", folded.head_bias)
    graph.add("Gemm", scores, head_weight, bias, name="logits", transB=1)
    return graph.finish([(_LOGITS, [CLASSES]), (_MAPS, [CONCEPTS, *graph.feature_shape[1:]])], name="naive")
