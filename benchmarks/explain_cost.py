"""What an explanation costs beside a prediction: ResNet-50 and ViT-B/16, 4741 concepts, 1000 classes, both poolings.

The contenders are described in networks.py. Figures without a prefix are ResNet-50's with average pooling; `vit_`,
`softmax_` and `vit_softmax_` mark the others. Under softmax pooling the bare prediction is the same linear layer.
"""

from functools import partial
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.interleaved import Timings, time_interleaved
from benchmarks.networks import RESNET_50, SIZE, THREADS, VIT_B16, Network, backbone_of, graphs, load, random_model
from benchmarks.report import CannotMeasureError, Result
from benchmarks.sums import check_sums
from salf_contract import PREDICTED_CLASS
from salf_export.graph_builder import identity_features
from salf_training.model import SalfModel

_CASES: tuple[tuple[str, Network, Literal["average", "softmax"]], ...] = (
    ("", RESNET_50, "average"),
    ("softmax_", RESNET_50, "softmax"),
    ("vit_", VIT_B16, "average"),
    ("vit_softmax_", VIT_B16, "softmax"),
)
#: Batch size -> rounds; a ViT-B/16 takes four times as long as a ResNet-50.
_ROUNDS = {"resnet50": {1: 200, 8: 40}, "vit_base_patch16_224": {1: 60, 8: 12}}
_QUICK_ROUNDS = 5
_FIGURES = {
    "explain": "explain_over_logits",
    "dense_head": "explain_dense_head_over_logits",
    "all_maps": "all_maps_over_logits",
}


def measure(*, quick: bool = False) -> Result:
    """Time all graphs at batch 1 and 8; a quick run leaves the ViT out.

    Raises:
        CannotMeasureError: a graph answers wrong.
    """
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    notes: dict[str, float] = {}
    for prefix, network, pooling in _CASES[:2] if quick else _CASES:
        rounds = dict.fromkeys(_ROUNDS[network.name], _QUICK_ROUNDS) if quick else _ROUNDS[network.name]
        model = random_model(network, pooling=pooling)
        for batch, timings in _time_graphs(model, rounds).items():
            for contender in timings.seconds:
                notes[f"{prefix}{contender}_b{batch}_ms"] = timings.median_ms(contender)
                if contender in _FIGURES:
                    name = f"{prefix}{_FIGURES[contender]}_b{batch}"
                    figures[name], spread[name] = timings.ratio(contender, "logits")
        if network is RESNET_50:
            for batch, timings in _time_heads(model, network, rounds).items():
                for contender in timings.seconds:
                    notes[f"{prefix}{contender}_without_backbone_b{batch}_ms"] = timings.median_ms(contender)
    return Result(
        name="explain_cost",
        runs={
            "rounds": _QUICK_ROUNDS
            if quick
            else {f"{name}_b{b}": n for name, of in _ROUNDS.items() for b, n in of.items()},
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

    Under softmax pooling (no graph `dense_head`) the linear layer is no shortcut to the same logits: it only sets the
    price of a prediction.

    Raises:
        CannotMeasureError: logits differ, contributions do not sum to them, or an explanation is empty.
    """
    answers = {}
    for name, session in sessions.items():
        names = [item.name for item in session.get_outputs()]
        answers[name] = dict(zip(names, session.run(None, _feed(session, pictures)), strict=True))
    scale = np.abs(answers["logits"]["logits"]).max()
    for name, other in (("explain", "logits"), ("all_maps", "logits")) if "dense_head" in sessions else ():
        error = np.abs(answers[name]["logits"] - answers[other]["logits"]).max()
        if not error <= 1e-4 * max(1.0, scale):
            raise CannotMeasureError(f"logits of {name} differ from those of {other} by {error:g}")
    for name in {"explain", "dense_head"} & sessions.keys():
        answer = answers[name]
        check_sums(answer, who=name)
        if (answer["top_concepts"] < 0).any() or not answer["top_maps"].any(axis=(2, 3)).all():
            raise CannotMeasureError(f"an explanation of {name} is empty")


def _time_graphs(model: SalfModel, rounds: dict[int, int]) -> dict[int, Timings]:
    """Batch size -> times of the whole graphs."""
    sessions = {name: load(graph) for name, graph in graphs(model, backbone_of(model)).items()}
    found = {}
    for batch, count in rounds.items():
        pictures = np.random.default_rng(batch).integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)
        check_answers(sessions, pictures)
        found[batch] = _time(sessions, pictures, count)
    return found


def _time_heads(model: SalfModel, network: Network, rounds: dict[int, int]) -> dict[int, Timings]:
    """Batch size -> times of the graphs from the features on."""
    source = identity_features(network.channels, network.cells, network.cells)
    sessions = {name: load(graph) for name, graph in graphs(model, source).items()}
    found = {}
    for batch, count in rounds.items():
        shape = (batch, network.channels, network.cells, network.cells)
        found[batch] = _time(sessions, np.random.default_rng(batch).random(shape, dtype=np.float32), count)
    return found


def _time(sessions: dict[str, onnxruntime.InferenceSession], values: NDArray[np.generic], rounds: int) -> Timings:
    return time_interleaved(
        {name: partial(session.run, None, _feed(session, values)) for name, session in sessions.items()},
        rounds=rounds,
        warm_up=3,
    )


def _feed(session: onnxruntime.InferenceSession, values: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    everything: dict[str, NDArray[np.generic]] = {
        "image": values,
        "features": values,
        "target": np.full((len(values), 1), PREDICTED_CLASS, np.int32),
    }
    return {item.name: everything[item.name] for item in session.get_inputs()}
