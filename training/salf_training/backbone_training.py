"""Train a small backbone and its classifier on labels, where there are no pre-trained weights."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from salf_training.backbone import Backbone, feature_shape
from salf_training.encoder import normalise_pixels
from salf_training.progress import Progress, silent


class BackboneTraining(BaseModel):
    """Schedule of supervised training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)


def train_backbone(
    backbone: Backbone,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    classes: int,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    settings: BackboneTraining,
    seed: int,
    on_progress: Progress = silent,
) -> nn.Linear:
    """Train in place, in bfloat16, with mirrored and shifted pictures.

    Args:
        backbone: gets trained; returned in evaluation mode.
        pixels: UINT8 [N,H,W,3].
        labels: INT64 [N].
        classes: K.
        pixel_mean: of pixels in 0..1, three values.
        pixel_std: likewise.
        settings: schedule.
        seed: of the order, the mirroring and the classifier's start.
        on_progress: told of every step.

    Returns:
        The classifier on average-pooled features: weight [K,C], bias [K].
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    channels, _, _ = feature_shape(backbone, height=pixels.shape[1], width=pixels.shape[2])
    classifier = nn.Linear(channels, classes)
    mean, std = torch.tensor(tuple(pixel_mean)), torch.tensor(tuple(pixel_std))
    backbone.train().to(memory_format=torch.channels_last)
    parameters = [*backbone.parameters(), *classifier.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
    )
    batch_size = min(settings.batch_size, len(pixels))
    per_epoch = len(pixels) // batch_size
    steps = settings.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=steps, pct_start=0.15)
    truth = torch.from_numpy(labels)
    step = 0
    for _ in range(settings.epochs):
        order = torch.randperm(len(pixels), generator=generator)
        for start in range(0, per_epoch * batch_size, batch_size):
            chosen = order[start : start + batch_size]
            batch = shift_and_mirror(torch.from_numpy(pixels[chosen.numpy()]), generator)
            with torch.autocast("cpu", torch.bfloat16):
                pooled = backbone(normalise_pixels(batch, mean, std)).mean(dim=(2, 3))
            logits = classifier(pooled.float())
            loss = F.cross_entropy(logits, truth[chosen], label_smoothing=settings.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
            on_progress("backbone", step, steps)
    backbone.eval().to(memory_format=torch.contiguous_format)
    return classifier.requires_grad_(requires_grad=False)


def shift_and_mirror(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Move each picture by up to a twelfth of its side (edges repeat), and mirror every other: UINT8 [B,H,W,3]."""
    count, height, width = pixels.shape[:3]
    most = max(1, min(height, width) // 12)
    dy = torch.randint(-most, most + 1, (count,), generator=generator)
    dx = torch.randint(-most, most + 1, (count,), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    rows = (torch.arange(height)[None] + dy[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width)[None] + dx[:, None]).clamp(0, width - 1)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return pixels[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
