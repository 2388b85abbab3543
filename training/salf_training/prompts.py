"""Visual prompts: ways to point an image encoder at one cell of a grid.

Circle: a red circle around the cell (Shtedritski et al., "What does CLIP know about a red circle?", ICCV 2023; the grid
as in SALF-CBM, section 3.1). Crop: the cell's neighbourhood alone, enlarged. Blur: everything outside a circle is
blurred (Yang et al., "Fine-grained visual prompting", NeurIPS 2023).
"""

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from torch import Tensor

_RED = (255.0, 0.0, 0.0)
_SIGMAS = 3  # a Gaussian is cut off there


class _Grid(BaseModel):
    """A grid of prompts; lengths are shares of the picture's shorter side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(default=7, ge=1)
    columns: int = Field(default=7, ge=1)


class CircleSettings(_Grid):
    """A grid of red circles; lengths are shares of the picture's shorter side (0.143 is 32 px at 224)."""

    kind: Literal["circle"] = "circle"
    radius: float = Field(default=32 / 224, gt=0, le=1)
    line_width: float = Field(default=3 / 224, gt=0, le=0.5)


class CropSettings(_Grid):
    """A grid of square windows, each shown alone; at the border a window is moved inside the picture."""

    kind: Literal["crop"] = "crop"
    side: float = Field(default=0.4, ge=0.1, le=1, description="of the window, as a share of the shorter side")


class BlurSettings(_Grid):
    """A grid of discs that stay sharp while the rest is blurred."""

    kind: Literal["blur"] = "blur"
    radius: float = Field(default=48 / 224, gt=0, le=1)
    sigma: float = Field(default=8 / 224, gt=0, le=0.5, description="of the Gaussian blur")


def _kind(value: Any) -> str:
    """Prompts written before there were kinds are circles."""
    return str(value.get("kind", "circle") if isinstance(value, dict) else getattr(value, "kind", "circle"))


#: Any kind of prompt, told apart by `kind`; without it, a circle.
PromptSettings = Annotated[
    Annotated[CircleSettings, Tag("circle")]
    | Annotated[CropSettings, Tag("crop")]
    | Annotated[BlurSettings, Tag("blur")],
    Discriminator(_kind),
]


def grid_centres(settings: PromptSettings, *, height: int, width: int) -> Tensor:
    """Centres of the grid's cells, row by row: FP32 [rows*columns,2] as (y, x) in pixels."""
    y = (torch.arange(settings.rows) + 0.5) * (height / settings.rows)
    x = (torch.arange(settings.columns) + 0.5) * (width / settings.columns)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(-1, 2)


def source_size(settings: PromptSettings, *, height: int, width: int) -> tuple[int, int]:
    """(H, W) in pixels that pictures should have for prompts of height x width: larger where a part is enlarged."""
    scale = 1 / settings.side if isinstance(settings, CropSettings) else 1.0
    return round(height * scale), round(width * scale)


def prompted(pixels: Tensor, settings: PromptSettings, *, height: int, width: int) -> Tensor:
    """Every picture, prompted at every cell.

    Args:
        pixels: UINT8 [B,*source_size,3] RGB, on any device.
        settings: kind and grid; G = rows * columns.
        height: of the prompted pictures, pixels.
        width: of the prompted pictures, pixels.

    Returns:
        UINT8 [B,G,height,width,3] on the same device; cells row by row.
    """
    if isinstance(settings, CropSettings):
        return _windows(pixels, settings, height=height, width=width)
    centres = grid_centres(settings, height=height, width=width)
    if isinstance(settings, CircleSettings):
        alphas = circle_alphas(centres, settings, height=height, width=width).to(pixels.device)
        return draw_circles(pixels[:, None], alphas[None])
    sharp = disc_alphas(centres, radius_px=settings.radius * min(height, width), height=height, width=width)
    blurred = _blur(pixels, sigma_px=settings.sigma * min(height, width))
    mixed = torch.lerp(blurred[:, None], pixels[:, None].float(), sharp.to(pixels.device)[None, ..., None])
    return mixed.round().to(torch.uint8)


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
    from_line = (_from_centres(centres, height=height, width=width) - settings.radius * side).abs()
    return (settings.line_width * side / 2 + 0.5 - from_line).clamp(0, 1)


def disc_alphas(centres: Tensor, *, radius_px: float, height: int, width: int) -> Tensor:
    """1 inside a disc around each centre, 0 outside, with a smooth edge: FP32 [P,height,width].

    Args:
        centres: FP32 [P,2], (y, x) in pixels.
        radius_px: pixels.
        height: of the picture, pixels.
        width: of the picture, pixels.
    """
    return (radius_px + 0.5 - _from_centres(centres, height=height, width=width)).clamp(0, 1)


def draw_circles(pixels: Tensor, alphas: Tensor) -> Tensor:
    """Lay red lines over pictures.

    Args:
        pixels: UINT8 [B,H,W,3] RGB.
        alphas: FP32 broadcastable to [B,H,W], 0..1, on the same device.

    Returns:
        UINT8 of the broadcast shape [...,H,W,3].
    """
    red = torch.tensor(_RED, device=pixels.device)
    drawn = torch.lerp(pixels.float(), red.expand(3), alphas[..., None])
    return drawn.round().to(torch.uint8)


def _from_centres(centres: Tensor, *, height: int, width: int) -> Tensor:
    """Distance of each pixel's middle from each centre, in pixels: FP32 [P,height,width]."""
    y = torch.arange(height)[None, :, None] + 0.5 - centres[:, 0, None, None]
    x = torch.arange(width)[None, None, :] + 0.5 - centres[:, 1, None, None]
    return (y * y + x * x).sqrt()


def _windows(pixels: Tensor, settings: CropSettings, *, height: int, width: int) -> Tensor:
    """Cut a square window around each cell's centre and resize it bilinearly: UINT8 [B,G,height,width,3]."""
    source_height, source_width = pixels.shape[1:3]
    side = settings.side * min(source_height, source_width)
    centres = grid_centres(settings, height=source_height, width=source_width)
    top = (centres[:, 0] - side / 2).clamp(0, source_height - side)  # [G]
    left = (centres[:, 1] - side / 2).clamp(0, source_width - side)
    y = top[:, None] + (torch.arange(height) + 0.5) * (side / height)  # [G,height], pixels
    x = left[:, None] + (torch.arange(width) + 0.5) * (side / width)
    grid = torch.stack(
        [
            (x / source_width * 2 - 1)[:, None, :].expand(-1, height, -1),
            (y / source_height * 2 - 1)[:, :, None].expand(-1, -1, width),
        ],
        dim=-1,
    ).to(pixels.device)  # [G,height,width,2]
    count, cells = len(pixels), len(centres)
    # All windows of a picture lie below each other in one sampling grid, so that no picture is copied per cell.
    cut = F.grid_sample(
        pixels.permute(0, 3, 1, 2).float(),
        grid.reshape(1, cells * height, width, 2).expand(count, -1, -1, -1),
        padding_mode="border",
        align_corners=False,
    )  # [B,3,G*height,width]
    windows: Tensor = cut.unflatten(2, (cells, height)).permute(0, 2, 3, 4, 1).round().to(torch.uint8)
    return windows


def _blur(pixels: Tensor, *, sigma_px: float) -> Tensor:
    """Gaussian blur, the border's pixels repeated outside: UINT8 [B,H,W,3] -> FP32 [B,H,W,3]."""
    reach = max(1, math.ceil(_SIGMAS * sigma_px))
    steps = torch.arange(-reach, reach + 1, device=pixels.device)
    weights = torch.exp(-0.5 * (steps / sigma_px) ** 2)
    kernel = (weights / weights.sum()).expand(3, 1, -1)  # [3,1,2*reach+1], one for each colour
    padded = F.pad(pixels.permute(0, 3, 1, 2).float(), (reach, reach, reach, reach), mode="replicate")
    down = F.conv2d(padded, kernel[..., None], groups=3)
    return F.conv2d(down, kernel[:, :, None, :], groups=3).permute(0, 2, 3, 1)
