"""The concept bottleneck: a 1x1 convolution whose maps match the local similarities.

Source: SALF-CBM, section 3.2; the cubed cosine similarity from Oikarinen et al., "Label-free CBM", ICLR 2023.
"""

from typing import Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from salf_training.errors import DataError
from salf_training.progress import Progress, silent

#: A row whose values differ by less than this share of their size is constant in FP32.
_ROUNDING = 2e-6
#: Of the mean best similarity: less is no reason to go on.
_GAIN = 1e-4


class BottleneckTraining(BaseModel):
    """How the 1x1 convolution is fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=1500, ge=1)
    batch_size: int = Field(default=256, ge=2, description="pictures per step")
    learning_rate: float = Field(default=3e-3, gt=0)
    held_out_share: float = Field(default=0.1, gt=0, lt=1, description="of the pictures, to choose the best step")
    check_every: int = Field(default=50, ge=1, description="steps between looks at the held-out pictures")
    patience: int | None = Field(
        default=10, ge=1, description="looks in a row without a gain after which the fit stops early; None: never"
    )


def cubed_cosine(maps: Tensor, similarities: Tensor) -> Tensor:
    """How well each concept's map follows its similarities, stressing the strongest places.

    Both are centred per concept, cubed, and compared by cosine over all pictures and cells of the batch.

    Args:
        maps: FP32 [M,S], a concept's values at S places.
        similarities: FP32 [M,S].

    Returns:
        FP32 [M], -1..1; 0 for a concept without any variation.
    """
    a, b = _centred_cubes(maps), _centred_cubes(similarities)
    cosine: Tensor = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-12)
    return cosine


def _centred_cubes(values: Tensor) -> Tensor:
    """Cubes of the centred rows, at a scale of their own: [M,S] in -1..1, zero for constant rows."""
    centred = values - values.mean(dim=1, keepdim=True)
    # The cosine does not depend on scale, but cubes of small or large numbers leave the range of FP32.
    largest = centred.detach().abs().amax(dim=1, keepdim=True)
    # What is left of a constant row after centring is the rounding of its mean.
    varies = largest > _ROUNDING * values.detach().abs().amax(dim=1, keepdim=True)
    return torch.where(varies, centred / largest.clamp_min(1e-30), 0.0) ** 3


class Similarities(Protocol):
    """FP32 [N,M,G]: a tensor, or something that computes the pictures that it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, M, G)."""

    def __getitem__(self, pictures: Tensor, /) -> Tensor:
        """INT64 [B] -> FP32 [B,M,G]."""


def fit_bottleneck(
    features: Tensor,
    similarities: Similarities,
    *,
    settings: BottleneckTraining,
    seed: int,
    on_progress: Progress = silent,
) -> tuple[Tensor, Tensor]:
    """Fit W_c on cached features; the backbone stays frozen.

    Args:
        features: FP32 [N,C,G], at the G cells of the prompt grid.
        similarities: FP32 [N,M,G]; asked for a batch at a time, and for the held-out pictures at each look.
        settings: schedule, and when to stop before its end.
        seed: of the split, the start and the order.
        on_progress: told of every step.

    Returns:
        W_c FP32 [M,C] of the step with the best held-out similarity, scaled so that each concept's map has unit
        standard deviation (the loss leaves the scale open), and the held-out similarity per concept FP32 [M].

    Raises:
        DataError: fewer than two pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    count, channels = features.shape[:2]
    if count < 2:
        raise DataError(f"the bottleneck needs two pictures or more, one of them to judge it by, but got {count}")
    order = torch.randperm(count, generator=generator)
    held_out = order[: min(max(1, round(settings.held_out_share * count)), count - 1)]
    training = order[len(held_out) :]
    # Whitened channels: the same step size suits all of them.
    spread = features.std(dim=(0, 2)).clamp_min(1e-6)
    weight = (torch.randn(similarities.shape[1], channels, generator=generator) / channels**0.5).requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    best, best_weight = torch.full((similarities.shape[1],), -2.0), weight.detach().clone()
    reached, looks_without_gain = -2.0, 0

    def similarity(pictures: Tensor) -> Tensor:
        maps = torch.einsum("mc,ncg->mng", weight / spread, features[pictures]).flatten(1)
        return cubed_cosine(maps, similarities[pictures].transpose(0, 1).flatten(1))

    for step in range(1, settings.steps + 1):
        chosen = training[torch.randint(len(training), (min(settings.batch_size, len(training)),), generator=generator)]
        optimiser.zero_grad()
        (-similarity(chosen).mean()).backward()
        optimiser.step()
        schedule.step()
        if step % settings.check_every == 0 or step == settings.steps:
            with torch.no_grad():
                now = similarity(held_out)
            # Concepts are independent rows, so each keeps its own best step.
            better = now > best
            best = torch.where(better, now, best)
            best_weight[better] = weight.detach()[better]
            if float(best.mean()) > reached + _GAIN:
                reached, looks_without_gain = float(best.mean()), 0
            else:
                looks_without_gain += 1
        if looks_without_gain == settings.patience:
            on_progress("bottleneck", settings.steps, settings.steps)
            break
        on_progress("bottleneck", step, settings.steps)
    fitted = best_weight / spread
    maps_std = torch.einsum("mc,ncg->mng", fitted, features[training[: 4 * settings.batch_size]]).flatten(1).std(dim=1)
    return fitted / maps_std.clamp_min(1e-12)[:, None], best
