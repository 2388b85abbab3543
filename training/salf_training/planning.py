"""What a training run will need, computed from its sizes: memory by stage, disk, passes and hours. Pure arithmetic.

Every line names the array it stands for; tests compare them with hand-computed numbers and with a real run.
"""

import math
from dataclasses import dataclass

from salf_training.feature_pass import CHUNK
from salf_training.model import Pooling

_FP16, _FP32, _FP64 = 2, 4, 8
#: Arrays [M,B,G] that a step of the bottleneck holds at its peak: maps, similarities, their centred cubes, gradients.
#: Measured: 17.2 (fit_bottleneck, M 400 and 800, B 128, G 49).
_STEP_ARRAYS = 18
#: Arrays [B,C,G] beside them: the batch, and four batches for the final scale. Measured: 7.8.
_STEP_FEATURES = 8
#: Arrays [N,K] that the solver of the head holds beside the scores: logits of four points, shares, errors.
_SOLVER_ARRAYS = 6


@dataclass(frozen=True, kw_only=True)
class PlannedSizes:
    """Sizes of a run.

    Attributes:
        pictures: N, for training.
        held_out: H, for figures.
        classes: K.
        concepts: M, before filters.
        similarity_pictures: S, that the bottleneck learns from.
        cells: G, of the prompt grid.
        embedding_size: D, of the encoder.
        channels: C, of the backbone.
        positions: h * w, of the backbone's maps.
        backbone_parameters: of the backbone.
        encoder_parameters: of the encoder.
        bottleneck_batch: pictures per step of the bottleneck.
        bottleneck_held_out: pictures that judge it.
        held_table_bytes: largest table of scores, in FP64, that is held.
        pooling: of the maps.
    """

    pictures: int
    held_out: int
    classes: int
    concepts: int
    similarity_pictures: int
    cells: int
    embedding_size: int
    channels: int
    positions: int
    backbone_parameters: int
    encoder_parameters: int
    bottleneck_batch: int
    bottleneck_held_out: int
    held_table_bytes: int
    pooling: Pooling = "average"


@dataclass(frozen=True)
class ResourcePlan:
    """What a run needs; bytes and passes follow from the sizes alone.

    Attributes:
        disk: what is written -> bytes.
        memory: stage -> bytes at its peak, network weights included.
        encoder_passes: prompted pictures through the encoder.
        backbone_passes: pictures through the backbone.
    """

    disk: dict[str, int]
    memory: dict[str, int]
    encoder_passes: int
    backbone_passes: int

    @property
    def disk_bytes(self) -> int:
        """On disk in all."""
        return sum(self.disk.values())

    @property
    def peak_memory_bytes(self) -> int:
        """Of the stage that needs most."""
        return max(self.memory.values())

    def encoder_hours(self, encodes_per_s: float) -> float:
        """Of the similarity stage."""
        return self.encoder_passes / encodes_per_s / 3600

    def backbone_hours(self, pictures_per_s: float) -> float:
        """Of the feature stages."""
        return self.backbone_passes / pictures_per_s / 3600


def plan_resources(sizes: PlannedSizes) -> ResourcePlan:
    """Memory, disk and passes of a run."""
    s = sizes
    backbone = s.backbone_parameters * _FP32
    pooled = (s.pictures + s.held_out) * s.channels * _FP32
    grid_features = s.similarity_pictures * s.channels * s.cells * _FP32
    kept = backbone + pooled + grid_features
    # Batches and the chunk that they are joined to.
    chunk = 2 * min(CHUNK, max(s.pictures, s.held_out)) * s.channels * s.positions * _FP32
    disk = {
        "embeddings [S,G,D] FP16": s.similarity_pictures * s.cells * s.embedding_size * _FP16,
        "checkpoint": backbone + (s.concepts + s.classes) * (s.channels + s.concepts) * _FP32,
    }
    tables, written = _tables(s)
    if written:
        disk["score tables FP32"] = written
    score_chunk = chunk if s.pooling == "softmax" else 0
    memory = {
        "features": kept + chunk,
        "similarities": kept + s.encoder_parameters * _FP32,
        "bottleneck": kept + s.encoder_parameters * _FP32 + _bottleneck(s),
        "head": kept + s.encoder_parameters * _FP32 + tables + score_chunk,
    }
    passes = s.pictures + s.held_out
    return ResourcePlan(
        disk=disk,
        memory=memory,
        encoder_passes=s.similarity_pictures * s.cells,
        backbone_passes=passes * (2 if s.pooling == "softmax" else 1),
    )


def _bottleneck(s: PlannedSizes) -> int:
    """Beside what is kept: features once more for their spread, and the arrays of a step; P [S,M,G] never exists."""
    spread = s.similarity_pictures * s.channels * s.cells * _FP32
    batch = min(s.bottleneck_batch, s.similarity_pictures)
    step = max(batch, s.bottleneck_held_out) * s.concepts * s.cells * _FP32 * _STEP_ARRAYS
    return spread + step + batch * s.channels * s.cells * _FP32 * _STEP_FEATURES


def _tables(s: PlannedSizes) -> tuple[int, int]:
    """(held, written) bytes while the head or the probe is fitted: z [N,M] and [H,M], or features [N,C]."""
    held, written = 0, 0
    for count in (s.pictures, s.held_out):
        entries = count * s.concepts
        if entries * _FP64 <= s.held_table_bytes:
            held += entries * (_FP32 + _FP64)
        else:
            written += entries * _FP32
    if s.pictures * s.concepts * _FP64 <= s.held_table_bytes:
        # The solver keeps logits, and gathers the columns of active concepts.
        held += s.pictures * s.concepts * _FP64 + s.pictures * s.classes * _FP64 * _SOLVER_ARRAYS
    probe = s.pictures * s.channels
    if probe * _FP64 <= s.held_table_bytes:
        held = max(held, probe * (_FP32 + 2 * _FP64) + s.pictures * s.classes * _FP64 * _SOLVER_ARRAYS)
    else:
        written += probe * _FP32
    return held, written


def bottleneck_held_out(pictures: int, share: float) -> int:
    """How many of S pictures judge the bottleneck; as in `fit_bottleneck`."""
    return min(max(1, round(share * pictures)), max(1, pictures - 1))


def readable_bytes(count: int) -> str:
    """Bytes with a decimal unit: 64_225_280_000 is '64.2 GB'."""
    if count < 1000:
        return f"{count} B"
    power = min(int(math.log(count, 1000)), 5)
    return f"{count / 1000**power:.3g} {' kMGTP'[power]}B"
