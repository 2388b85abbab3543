"""Visual prompts: a red circle that points an image encoder at one place.

Source: Shtedritski et al., "What does CLIP know about a red circle?", ICCV 2023; the grid as in SALF-CBM (section 3.1).
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

_RED = (255.0, 0.0, 0.0)


class CircleSettings(BaseModel):
    """A grid of red circles; lengths are shares of the picture's shorter side (0.143 is 32 px at 224)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(default=7, ge=1)
    columns: int = Field(default=7, ge=1)
    radius: float = Field(default=32 / 224, gt=0, le=1)
    line_width: float = Field(default=3 / 224, gt=0, le=0.5)


def grid_centres(settings: CircleSettings, *, height: int, width: int) -> Tensor:
    """Centres of the grid's cells, row by row: FP32 [rows*columns,2] as (y, x) in pixels."""
    y = (torch.arange(settings.rows) + 0.5) * (height / settings.rows)
    x = (torch.arange(settings.columns) + 0.5) * (width / settings.columns)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(-1, 2)


def circle_alphas(centres: Tensor, settings: CircleSettings, *, height: int, width: int) -> Tensor:
    """Opacity of a circle's line around each centre, with smooth edges.

    Args:
        centres: FP32 [P,2], (y, x) in pixels.
        settings: radius and line width.
        height: of the picture, pixels.
        width: of the picture, pixels.

    Returns:
        FP32 [P,height,width], 0..1.
    """
    side = min(height, width)
    y = torch.arange(height)[None, :, None] + 0.5 - centres[:, 0, None, None]
    x = torch.arange(width)[None, None, :] + 0.5 - centres[:, 1, None, None]
    from_line = ((y * y + x * x).sqrt() - settings.radius * side).abs()
    return (settings.line_width * side / 2 + 0.5 - from_line).clamp(0, 1)


def draw_circles(pixels: Tensor, alphas: Tensor) -> Tensor:
    """Lay red lines over pictures.

    Args:
        pixels: UINT8 [B,H,W,3] RGB.
        alphas: FP32 broadcastable to [B,H,W], 0..1.

    Returns:
        UINT8 of the broadcast shape [...,H,W,3].
    """
    red = torch.tensor(_RED)
    drawn = torch.lerp(pixels.float(), red.expand(3), alphas[..., None])
    return drawn.round().to(torch.uint8)
