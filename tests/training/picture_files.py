"""Small pictures on disk, and an encoder that is small enough to know what it says."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 60), "yellow": (230, 220, 40)}


def write_noise(folder: Path, *, count: int, size: tuple[int, int] = (40, 40), seed: int = 0) -> list[Path]:
    """Pictures of smooth noise; `size` is (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    paths = []
    for index in range(count):
        rough = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        paths.append(folder / f"{index:03d}.png")
        rough.resize(size, Image.Resampling.BILINEAR).save(paths[-1])
    return paths


def write_coloured_squares(root: Path, *, per_class: int, side: int = 48, seed: int = 0) -> Path:
    """An image folder whose classes are the colour of a square on grey noise."""
    generator = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            pixels = generator.integers(90, 150, (side, side, 3), dtype=np.uint8)
            y, x = generator.integers(0, side // 2, 2)
            pixels[y : y + side // 2, x : x + side // 2] = colour
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


class ColourEncoder:
    """Implements the Encoder protocol: embeds a picture as its mean colour in 3 x 3 parts, a phrase as its own noise.

    Counts its calls, and raises at a picture number if asked to.
    """

    def __init__(self, image_size: tuple[int, int] = (24, 24), *, fingerprint: str = "colours-1") -> None:
        self.image_size = image_size
        self.fingerprint = fingerprint
        self.pictures_embedded = 0
        self.fails_after: int | None = None

    def embed_images(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8
        assert tuple(pixels.shape[1:]) == (*self.image_size, 3)
        if self.fails_after is not None and self.pictures_embedded + len(pixels) > self.fails_after:
            raise RuntimeError("the power went off")
        self.pictures_embedded += len(pixels)
        parts = F.adaptive_avg_pool2d(pixels.permute(0, 3, 1, 2).float() / 255 - 0.45, 3)
        return F.normalize(parts.flatten(1), dim=-1)

    def embed_texts(self, phrases: Sequence[str]) -> Tensor:
        rows = []
        for phrase in phrases:
            if phrase in COLOURS:
                row = (torch.tensor(COLOURS[phrase]) / 255 - 0.45)[:, None].expand(3, 9).flatten()
            else:
                generator = torch.Generator().manual_seed(sum(map(ord, phrase)))
                row = torch.randn(27, generator=generator)
            rows.append(row)
        return F.normalize(torch.stack(rows), dim=-1)
