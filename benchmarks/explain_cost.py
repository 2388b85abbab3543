"""What an explanation costs beside a prediction: ResNet-50, 4741 concepts, 1000 classes, average pooling.

logits       backbone + one K x C linear layer: the price of a bare prediction
explain      our explain graph, 16 maps, a sparse head with NEC 30 as published heads have
dense_head   our explain graph for a dense head, which has to compute all z
all_maps     the naive graph: all maps as a convolution, pooled, normalised, head; maps and logits are the answer
"""

from functools import partial

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.interleaved import time_interleaved
from benchmarks.report import CannotMeasureError, Result
from salf_contract import ALL_MAPS_OUTPUTS, EXPLAIN_OUTPUTS, PREDICTED_CLASS, Preparation, sum_tolerance
from salf_export.backbone_graph import backbone_graph
from salf_export.folding import FoldedHead, LinearHead, fold, linear_head
from salf_export.graph_builder import GraphBuilder, identity_features
from salf_export.graphs import explain_graph
from salf_training.backbone import BackboneSettings, build_backbone
from salf_training.model import SalfModel

CONCEPTS, CLASSES, CHANNELS, SIZE, CELLS, TOP = 4741, 1000, 2048, 224, 7, 16
CONCEPTS_PER_CLASS = 30
THREADS = 2
_ROUNDS = {1: 200, 8: 40}
_CONTRACT_ID = np.arange(4, dtype=np.int32)
_LOGITS = next(spec for spec in EXPLAIN_OUTPUTS if spec.name == "logits")
_MAPS = next(spec for spec in ALL_MAPS_OUTPUTS if spec.name == "all_maps")


def measure(*, quick: bool = False) -> Result:
    """Time the four graphs at batch 1 and 8.

    Raises:
        CannotMeasureError: a graph answers wrong.
    """
    model = random_resnet50()
    backbone = backbone_graph(model, Preparation(height=SIZE, width=SIZE))
    sessions = {name: _load(graph) for name, graph in _graphs(model, backbone).items()}
    heads = {name: _load(graph) for name, graph in _graphs(model, identity_features(CHANNELS, CELLS, CELLS)).items()}
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    notes: dict[str, float] = {}
    rounds = dict.fromkeys(_ROUNDS, 5) if quick else _ROUNDS
    for batch, count in rounds.items():
        pictures = np.random.default_rng(batch).integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)
        check_answers(sessions, pictures)
        feeds = {name: _feed(session, pictures) for name, session in sessions.items()}
        timings = time_interleaved(
            {name: partial(session.run, None, feeds[name]) for name, session in sessions.items()},
            rounds=count,
            warm_up=3,
        )
        for contender, figure in (
            ("explain", "explain_over_logits"),
            ("dense_head", "explain_dense_head_over_logits"),
            ("all_maps", "all_maps_over_logits"),
        ):
            figures[f"{figure}_b{batch}"], spread[f"{figure}_b{batch}"] = timings.ratio(contender, "logits")
        for name in sessions:
            notes[f"{name}_b{batch}_ms"] = timings.median_ms(name)
        features = np.random.default_rng(batch).random((batch, CHANNELS, CELLS, CELLS), dtype=np.float32)
        alone = time_interleaved(
            {name: partial(head.run, None, _feed(head, features)) for name, head in heads.items()},
            rounds=count,
            warm_up=3,
        )
        for name in heads:
            notes[f"{name}_without_backbone_b{batch}_ms"] = alone.median_ms(name)
    return Result(
        name="explain_cost",
        runs={
            "rounds": {f"b{batch}": count for batch, count in rounds.items()},
            "interleaved": "each round runs every graph once, in shuffled order; ratios are taken within a round",
            "figure": "median of the rounds' ratios",
            "spread": "smallest and largest median of five consecutive blocks of rounds",
            "threads": THREADS,
        },
        figures=figures,
        spread=spread,
        notes=notes,
    )


def check_answers(sessions: dict[str, onnxruntime.InferenceSession], pictures: NDArray[np.uint8]) -> None:
    """All graphs must mean the same, and explain something, before their speed is worth anything.

    Raises:
        CannotMeasureError: logits differ, contributions do not sum to them, or an explanation is empty.
    """
    answers = {}
    for name, session in sessions.items():
        names = [item.name for item in session.get_outputs()]
        answers[name] = dict(zip(names, session.run(None, _feed(session, pictures)), strict=True))
    scale = np.abs(answers["logits"]["logits"]).max()
    for name, other in (("explain", "logits"), ("all_maps", "logits")):
        error = np.abs(answers[name]["logits"] - answers[other]["logits"]).max()
        if not error <= 1e-4 * max(1.0, scale):
            raise CannotMeasureError(f"logits of {name} differ from those of {other} by {error:g}")
    for name in ("explain", "dense_head"):
        answer = answers[name]
        for row in range(len(pictures)):
            shown = answer["top_contributions"][row].astype(np.float64)
            total = shown.sum() + answer["rest_contribution"][row, 0] + answer["bias"][row, 0]
            gap = abs(total - answer["logits"][row, answer["target_class"][row, 0]])
            everything = np.array([np.abs(shown).sum() / answer["coverage"][row, 0]])
            if not gap <= sum_tolerance(everything):
                raise CannotMeasureError(f"contributions of {name} miss the logit by {gap:g}")
        if (answer["top_concepts"] < 0).any() or not answer["top_maps"].any(axis=(2, 3)).all():
            raise CannotMeasureError(f"an explanation of {name} is empty")


def _graphs(model: SalfModel, backbone: ModelProto) -> dict[str, ModelProto]:
    sparse = linear_head(model)
    dense = LinearHead(**{**vars(sparse), "head_weight": _random_head(density=1.0)})
    folded = fold(sparse)
    return {
        "logits": _logits_graph(backbone, folded),
        "explain": explain_graph(backbone, folded, top=TOP, contract_id=_CONTRACT_ID),
        "dense_head": explain_graph(backbone, fold(dense), top=TOP, contract_id=_CONTRACT_ID),
        "all_maps": _naive_graph(backbone, folded, sparse),
    }


def random_resnet50() -> SalfModel:
    """A ResNet-50 without training, with a sparse head; its features have ordinary sizes."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = SalfModel(
        build_backbone(BackboneSettings(name="resnet50")), channels=CHANNELS, concepts=CONCEPTS, classes=CLASSES
    )
    model.pixel_mean.fill_(0.45)
    model.pixel_std.fill_(0.225)
    # Give BatchNorm statistics of its own inputs, so that features have ordinary sizes.
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        features = model.features(torch.randint(0, 256, (4, SIZE, SIZE, 3), dtype=torch.uint8))
    model.eval()
    if tuple(features.shape[1:]) != (CHANNELS, CELLS, CELLS):
        raise CannotMeasureError(f"the backbone gives {tuple(features.shape[1:])}, expected {(CHANNELS, CELLS, CELLS)}")
    model.concept_weight.normal_(std=CHANNELS**-0.5)
    model.head_weight.copy_(torch.from_numpy(_random_head(density=CONCEPTS_PER_CLASS / CONCEPTS)))
    model.head_bias.copy_(torch.from_numpy(random.normal(size=CLASSES)))
    return model


def _random_head(*, density: float) -> NDArray[np.float64]:
    """W_g FP64 [K,M]; the number of non-zero weights varies from class to class, as in fitted heads."""
    random = np.random.default_rng(1)
    weights = random.normal(scale=(CONCEPTS * density) ** -0.5, size=(CLASSES, CONCEPTS))
    return np.where(random.random(weights.shape) < density, weights, 0.0)


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
    return graph.finish([(_LOGITS, [CLASSES]), (_MAPS, [CONCEPTS, CELLS, CELLS])], name="naive")


def _load(graph: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    # Idle sessions must not spin on the cores while another one is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _feed(session: onnxruntime.InferenceSession, pictures: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    everything: dict[str, NDArray[np.generic]] = {
        "image": pictures,
        "features": pictures,
        "target": np.full((len(pictures), 1), PREDICTED_CLASS, np.int32),
    }
    return {item.name: everything[item.name] for item in session.get_inputs()}
