"""How fast the planned networks are and how much they compute, measured on random pictures for a few seconds."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from salf_training.plan_inspection import Inspection
from salf_training.settings import TrainSettings

_BATCHES = {"cpu": 2, "cuda": 64}  # pictures at a time
_LONGEST_S = 3.0


def measure_encodes_per_s(inspection: Inspection, *, longest_s: float = _LONGEST_S) -> float:
    """Prompted pictures that the encoder embeds in a second on its device, as training asks it to."""
    return _per_second(
        inspection.encoder.embed, _encoder_pixels(inspection, count=_BATCHES[inspection.encoder.device.type]), longest_s
    )


def measure_pictures_per_s(inspection: Inspection, settings: TrainSettings, *, longest_s: float = _LONGEST_S) -> float:
    """Pictures that pass the backbone in a second; it computes on the CPU. Decoding them is not measured."""
    return _per_second(inspection.backbone, _backbone_images(settings, count=_BATCHES["cpu"]), longest_s)


@torch.no_grad()
def flop_per_picture(inspection: Inspection, settings: TrainSettings) -> tuple[int, int]:
    """Floating-point operations of one picture: (encoder, backbone), products and convolutions counted."""
    with FlopCounterMode(display=False) as encoder:
        inspection.encoder.embed(_encoder_pixels(inspection, count=1))
    with FlopCounterMode(display=False) as backbone:
        inspection.backbone(_backbone_images(settings, count=1))
    return encoder.get_total_flops(), backbone.get_total_flops()


def _encoder_pixels(inspection: Inspection, *, count: int) -> Tensor:
    encoder = inspection.encoder
    return torch.randint(256, (count, *encoder.image_size, 3), dtype=torch.uint8, device=encoder.device)


def _backbone_images(settings: TrainSettings, *, count: int) -> Tensor:
    return torch.randn(count, 3, settings.preparation.height, settings.preparation.width)


@torch.inference_mode()
def _per_second(run: Callable[[Tensor], Tensor], images: Tensor, longest_s: float) -> float:
    """The best of several batches after a first one: other work on the machine only ever slows it."""
    best_s, deadline_s = float("inf"), time.monotonic() + longest_s
    run(images)
    while True:
        started_s = time.perf_counter()
        run(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        best_s = min(best_s, time.perf_counter() - started_s)
        if time.monotonic() > deadline_s:
            return len(images) / best_s
