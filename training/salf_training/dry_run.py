"""`salf train --dry-run`: what was found and what training would need, as one value."""

from dataclasses import asdict, dataclass
from typing import Any

from salf_training.plan_inspection import Inspection, inspect
from salf_training.plan_probe import flop_per_picture, measure_encodes_per_s, measure_pictures_per_s
from salf_training.planning import ResourcePlan, plan_resources
from salf_training.settings import TrainSettings

#: What a data-centre GPU sustains on a vision transformer in half precision: a sixth of an A100's peak of 312.
GPU_TFLOPS = 50.0


@dataclass(frozen=True)
class Speed:
    """Pictures per second, and where the number comes from: "given", or "measured on cuda" or "... cpu"."""

    per_s: float
    origin: str


@dataclass(frozen=True)
class DryRun:
    """What was found, what will be needed, and how fast.

    Attributes:
        inspection: data, weights, sizes.
        plan: bytes and passes.
        encoder_speed: prompted pictures.
        backbone_speed: pictures.
        encoder_flop: floating-point operations of one prompted picture (a multiply-add is two).
        backbone_flop: the same of one picture.
        gpu_tflops: what a GPU is taken to sustain, in 1e12 operations per second.
    """

    inspection: Inspection
    plan: ResourcePlan
    encoder_speed: Speed
    backbone_speed: Speed
    encoder_flop: int
    backbone_flop: int
    gpu_tflops: float

    @property
    def hours(self) -> dict[str, float]:
        """Of the passes, by network; bottleneck, head and decoding come on top."""
        return {
            "encoder": self.plan.encoder_hours(self.encoder_speed.per_s),
            "backbone": self.plan.backbone_hours(self.backbone_speed.per_s),
        }

    @property
    def petaflop(self) -> dict[str, float]:
        """Of all passes, by network, in 1e15 floating-point operations."""
        return {
            "encoder": self.plan.encoder_passes * self.encoder_flop / 1e15,
            "backbone": self.plan.backbone_passes * self.backbone_flop / 1e15,
        }

    @property
    def gpu_hours(self) -> float:
        """Of the encoder on a GPU that sustains `gpu_tflops`; the backbone computes on the CPU."""
        return self.petaflop["encoder"] * 1000 / self.gpu_tflops / 3600

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "ready": self.inspection.ready,
            "findings": [asdict(finding) for finding in self.inspection.findings],
            "sizes": asdict(self.inspection.sizes),
            "disk_bytes": {**self.plan.disk, "total": self.plan.disk_bytes},
            "memory_bytes": {**self.plan.memory, "peak": self.plan.peak_memory_bytes},
            "passes": {"encoder": self.plan.encoder_passes, "backbone": self.plan.backbone_passes},
            "per_s": {"encoder": asdict(self.encoder_speed), "backbone": asdict(self.backbone_speed)},
            "hours": self.hours,
            "petaflop": self.petaflop,
            "gpu_hours": {"hours": self.gpu_hours, "at_tflops": self.gpu_tflops},
        }


def dry_run(
    settings: TrainSettings,
    *,
    encodes_per_s: float | None = None,
    pictures_per_s: float | None = None,
    gpu_tflops: float = GPU_TFLOPS,
) -> DryRun:
    """Look at everything and plan, without training and without fetching anything.

    Args:
        settings: the run.
        encodes_per_s: speed of the encoder; None measures it here.
        pictures_per_s: speed of the backbone; None measures it here.
        gpu_tflops: what a GPU sustains, for GPU hours.

    Raises:
        TrainingError: there is nothing to plan with (see `inspect`).
    """
    found = inspect(settings)
    if encodes_per_s is None:
        encoder_speed = Speed(measure_encodes_per_s(found), f"measured on {found.encoder.device}")
    else:
        encoder_speed = Speed(encodes_per_s, "given")
    if pictures_per_s is None:
        backbone_speed = Speed(measure_pictures_per_s(found, settings), "measured on cpu")
    else:
        backbone_speed = Speed(pictures_per_s, "given")
    encoder_flop, backbone_flop = flop_per_picture(found, settings)
    return DryRun(
        inspection=found,
        plan=plan_resources(found.sizes),
        encoder_speed=encoder_speed,
        backbone_speed=backbone_speed,
        encoder_flop=encoder_flop,
        backbone_flop=backbone_flop,
        gpu_tflops=gpu_tflops,
    )
