"""Backbone features of many pictures, computed once: the backbone is frozen, so training needs nothing else."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from salf_contract import Preparation
from salf_training.image_folder import batches_of_pixels
from salf_training.model import SalfModel
from salf_training.progress import Progress, silent


@torch.inference_mode()
def compute_features(
    model: SalfModel,
    paths: Sequence[Path],
    preparation: Preparation,
    *,
    batch_size: int = 64,
    stage: str = "features",
    on_progress: Progress = silent,
) -> Tensor:
    """Features of N pictures: FP32 [N,C,h,w].

    Raises:
        DataError: a picture is missing or broken.
    """
    found = []
    for pixels in batches_of_pixels(paths, preparation, batch_size=batch_size):
        found.append(model.features(torch.from_numpy(pixels)))
        on_progress(stage, min(len(found) * batch_size, len(paths)), len(paths))
    return torch.cat(found)


def features_on_grid(features: Tensor, *, rows: int, columns: int) -> Tensor:
    """Bring feature maps to the prompt grid.

    Along each axis, finer maps are averaged over each cell (the exact mean over its extent, parts of pixels included)
    and coarser ones interpolated linearly.

    Args:
        features: FP32 [N,C,h,w].
        rows: of the grid.
        columns: of the grid.

    Returns:
        FP32 [N,C,rows*columns].
    """
    height, width = features.shape[2:]
    if (height, width) == (rows, columns):
        return features.flatten(2)
    down, across = _to_cells(height, rows), _to_cells(width, columns)
    return torch.einsum("gh,nchw,kw->ncgk", down, features, across).flatten(2)


def _to_cells(size: int, cells: int) -> Tensor:
    """How much each of `size` pixels counts for each of `cells` cells: FP32 [cells,size], rows that sum to 1."""
    if size < cells:
        return F.interpolate(torch.eye(size)[None], cells, mode="linear", align_corners=False)[0].T.contiguous()
    pixel, cell = torch.arange(size, dtype=torch.float64), torch.arange(cells, dtype=torch.float64)[:, None]
    overlap = torch.minimum(pixel + 1, (cell + 1) * size / cells) - torch.maximum(pixel, cell * size / cells)
    return (overlap.clamp_min(0) * cells / size).float()
