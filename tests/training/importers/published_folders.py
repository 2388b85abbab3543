"""Folders as published checkpoints have them, with random numbers."""

from pathlib import Path

import torch

from salf_contract import Preparation
from salf_training.backbone import BackboneSettings

CONCEPTS, CLASSES, CHANNELS = 7, 3, 5
FEATURES = BackboneSettings(name="features", options={"channels": CHANNELS, "height": 4, "width": 6})
SMALL = Preparation(height=64, width=96)


def write_published(folder: Path, layout: str, *, channels: int = CHANNELS) -> dict[str, torch.Tensor]:
    """A random published folder; returns its tensors by file name."""
    generator = torch.Generator().manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    weight = torch.randn(CONCEPTS, channels, generator=generator)
    tensors = {
        "W_g.pt": torch.randn(CLASSES, CONCEPTS, generator=generator).relu(),
        "b_g.pt": torch.randn(CLASSES, generator=generator),
        "proj_mean.pt": torch.randn(1, CONCEPTS, generator=generator),
        "proj_std.pt": torch.rand(1, CONCEPTS, generator=generator) + 0.5,
    }
    if layout == "salf-spatial":
        bias = torch.randn(CONCEPTS, generator=generator)
        torch.save({"weight": weight[:, :, None, None], "bias": bias}, folder / "concept_layer.pt")
    else:
        tensors["W_c.pt"] = weight if layout == "label-free" else weight[:, :, None, None]
    for name, tensor in tensors.items():
        torch.save(tensor, folder / name)
    (folder / "concepts.txt").write_text("\n".join(f"concept {i}" for i in range(CONCEPTS)))  # as published: no last \n
    (folder / "classes.txt").write_text("\n".join(f"class {i}" for i in range(CLASSES)))
    return tensors
