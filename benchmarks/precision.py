"""What each runtime and precision gains in speed, and what explanations lose by it.

Speed is measured on ResNet-50 at 224 px (random weights, 4741 concepts, 1000 classes, explain graph, batch 8), where
weights do not matter, and on the demonstration model. Fidelity is measured on the demonstration model, calibrated on
scenes from other seeds than those that it is compared on. ResNet-50 is quantised whole: the blocks that the
demonstration model keeps in float are reported, they belong to another network.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.interleaved import Timings, time_interleaved
from benchmarks.networks import RESNET_50, SIZE, THREADS, TOP, random_model
from benchmarks.report import CannotMeasureError, Result
from benchmarks.sums import check_sums
from demonstration.paths import CHECKPOINT
from salf_contract import PREDICTED_CLASS, ExplanationFidelity, Preparation, Thresholds
from salf_export.artefacts import make_artefact
from salf_export.backbone_graph import backbone_graph
from salf_export.errors import ExportError
from salf_export.explanation_fidelity import compare_with_source
from salf_export.folding import graph_head, linear_head
from salf_export.gate import pressure
from salf_export.graphs import all_maps_graph, explain_graph
from salf_export.kinds import Kind, check_kind
from salf_export.pictures import check_apart, read_calibration, read_held_out
from salf_export.quantising import Quantiser
from salf_export.reduction import reduce_backbone
from salf_export.runtime import Session
from salf_training.checkpoint import Checkpoint, load_checkpoint
from salf_training.model import SalfModel
from salf_training.scenes import write_scenes

BATCH = 8
KINDS = (
    Kind("onnxruntime", "fp32"),
    Kind("onnxruntime", "int8"),
    Kind("openvino", "fp32"),
    Kind("openvino", "bf16"),
    Kind("openvino", "int8"),
)
BASELINE = KINDS[0]
_CALIBRATION, _HELD_OUT = 200, 300
#: Far from the seeds of the demonstration's training pictures (from 0) and of its held-out ones (from 1,000,000).
_CALIBRATION_SEED, _HELD_OUT_SEED = 3_000_000, 4_000_000
_ROUNDS = 20
_CONTRACT_ID = np.arange(4, dtype=np.int32)


@dataclass(frozen=True)
class Demonstrated:
    """What one kind makes of the demonstration model."""

    session: Session
    figures: ExplanationFidelity
    kept_blocks: int


def measure(*, quick: bool = False) -> Result:
    """Build, compare and time every kind that this machine computes.

    Raises:
        CannotMeasureError: an answer is wrong or empty, or no kind but the baseline can be built here.
    """
    kinds = tuple(kind for kind in KINDS if _is_computed(kind))
    if len(kinds) < 2:
        raise CannotMeasureError("this machine computes nothing but fp32; pip install 'salf[openvino]' may help")
    demonstrated = _demonstrate(kinds)
    large = _resnet50(kinds)
    rounds = 3 if quick else _ROUNDS
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    notes: dict[str, float] = {}
    side = load_checkpoint(CHECKPOINT).card.preparation.height
    small = {kind: one.session for kind, one in demonstrated.items()}
    for network, sessions, size in (("resnet50", large, SIZE), ("demonstration", small, side)):
        timings = _time(sessions, size=size, rounds=rounds)
        for kind in kinds:
            name = f"{_word(kind)}_speedup_{network}_b8"
            figures[name], spread[name] = timings.ratio(str(BASELINE), str(kind))
            notes[f"{_word(kind)}_{network}_ms_per_image"] = timings.median_ms(str(kind)) / BATCH
    thresholds = Thresholds()
    for kind, one in demonstrated.items():
        for name in ("class_agreement", "top5_overlap", "top5_order", "map_cosine", "largest_contribution_error"):
            figures[f"{_word(kind)}_{name}"] = getattr(one.figures, name)
        if one.figures.pointing is not None and one.figures.pointing_source is not None:
            figures[f"{_word(kind)}_pointing"] = one.figures.pointing
            notes["fp32_pytorch_pointing"] = one.figures.pointing_source
        figures[f"{_word(kind)}_passes_gate"] = float(pressure(one.figures, thresholds) <= 1)
        notes[f"{_word(kind)}_blocks_kept_float"] = one.kept_blocks
    passing = [kind for kind in kinds if figures[f"{_word(kind)}_passes_gate"]]
    best = max(passing, key=lambda kind: figures[f"{_word(kind)}_speedup_resnet50_b8"])
    figures = {"best_speedup_resnet50_b8": figures[f"{_word(best)}_speedup_resnet50_b8"], **figures}
    spread["best_speedup_resnet50_b8"] = spread[f"{_word(best)}_speedup_resnet50_b8"]
    return Result(
        name="precision",
        runs={
            "rounds": rounds,
            "interleaved": "each round runs every kind once, in shuffled order; ratios are taken within a round",
            "figure": "median of the rounds' ratios, time of ONNX Runtime fp32 over time of the kind",
            "spread": "smallest and largest median of five consecutive blocks of rounds",
            "threads": THREADS,
            "best": str(best),
            "calibration": f"{_CALIBRATION} scenes",
            "fidelity": f"{_HELD_OUT} other scenes",
        },
        figures=figures,
        spread=spread,
        notes=notes,
    )


def check_answers(sessions: Mapping[Kind, Session], pictures: NDArray[np.uint8]) -> None:
    """Every kind must explain something, and its contributions must sum to its logit.

    Raises:
        CannotMeasureError: one does not.
    """
    for kind, session in sessions.items():
        answer = session.run(_question(pictures))
        check_sums(answer, who=str(kind))
        if not answer["top_maps"].any(axis=(1, 2, 3)).all():
            raise CannotMeasureError(f"an explanation of {kind} is empty")


def _is_computed(kind: Kind) -> bool:
    try:
        check_kind(kind)
    except ExportError:
        return False
    return True


def _word(kind: Kind) -> str:
    return f"{kind.runtime}_{kind.precision}"


def _question(pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    return {"image": pictures, "target": np.full((len(pictures), 1), PREDICTED_CLASS, np.int32)}


def _time(sessions: Mapping[Kind, Session], *, size: int, rounds: int) -> Timings:
    pictures = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)
    check_answers(sessions, pictures)
    contenders: dict[str, Callable[[], object]] = {
        str(kind): partial(session.run, _question(pictures)) for kind, session in sessions.items()
    }
    return time_interleaved(contenders, rounds=rounds, warm_up=3)


def _demonstrate(kinds: tuple[Kind, ...]) -> dict[Kind, Demonstrated]:
    source = load_checkpoint(CHECKPOINT)
    with tempfile.TemporaryDirectory(prefix="salf-precision-") as folder:
        for name, count, seed in (
            ("calibration", _CALIBRATION, _CALIBRATION_SEED),
            ("held_out", _HELD_OUT, _HELD_OUT_SEED),
        ):
            write_scenes(Path(folder) / name, count=count, first_seed=seed, workers=1)
        return _compare(kinds, source, Path(folder))


def _compare(kinds: tuple[Kind, ...], source: Checkpoint, folder: Path) -> dict[Kind, Demonstrated]:
    preparation = source.card.preparation
    calibration = read_calibration(folder / "calibration" / "images", preparation)
    held_out = read_held_out(folder / "held_out", preparation, source.classes)
    check_apart(calibration, held_out)
    backbone = backbone_graph(source.model, preparation)
    head = graph_head(linear_head(source.model))
    found = {}
    for kind in kinds:
        reduced, kept = backbone, 0
        if kind.precision == "int8":
            choice = reduce_backbone(backbone, source.model, calibration, kind=kind, top=TOP, thresholds=Thresholds())
            reduced, kept = choice.backbone, len(choice.kept)
        explain = make_artefact(explain_graph(reduced, head, top=TOP, contract_id=_CONTRACT_ID), kind).session
        all_maps = make_artefact(all_maps_graph(reduced, head, contract_id=_CONTRACT_ID), kind).session
        found[kind] = Demonstrated(explain, compare_with_source(explain, all_maps, source, held_out, TOP), kept)
    return found


def _resnet50(kinds: tuple[Kind, ...]) -> dict[Kind, Session]:
    model = random_model(RESNET_50, pooling="average")
    backbone = backbone_graph(model, Preparation(height=SIZE, width=SIZE))
    pictures = np.random.default_rng(1).integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    quantised = Quantiser(backbone, pictures).quantise()
    return {kind: _session(model, quantised if kind.precision == "int8" else backbone, kind) for kind in kinds}


def _session(model: SalfModel, backbone: ModelProto, kind: Kind) -> Session:
    head = graph_head(linear_head(model))
    return make_artefact(explain_graph(backbone, head, top=TOP, contract_id=_CONTRACT_ID), kind).session
