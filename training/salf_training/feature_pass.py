"""One pass of pictures through the frozen backbone that keeps only what training needs.

Feature maps of all pictures are never held: at ImageNet's size ResNet-50's are 514 GB, its pooled features 10 GB.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from salf_contract import Preparation
from salf_training.features import compute_features, features_on_grid
from salf_training.model import SalfModel
from salf_training.progress import Progress, silent

#: Pictures whose feature maps are held at a time; a multiple of the batch size of `compute_features`.
CHUNK = 1024


@dataclass(frozen=True)
class KeptFeatures:
    """What is left of a pass.

    Attributes:
        pooled: FP32 [N,C], the mean over each map.
        on_grid: FP32 [S,C,G], maps of the chosen pictures at the G cells of the prompt grid.
    """

    pooled: Tensor
    on_grid: Tensor


def keep_features(
    model: SalfModel,
    paths: Sequence[Path],
    preparation: Preparation,
    *,
    chosen: Sequence[int] = (),
    grid: tuple[int, int] = (1, 1),
    stage: str = "features",
    on_progress: Progress = silent,
) -> KeptFeatures:
    """Pooled features of N pictures, and the maps of some of them.

    Args:
        model: its backbone is used.
        paths: N pictures.
        preparation: how they are brought to the model's size.
        chosen: indices, ascending, of the S pictures whose maps are kept.
        grid: (rows, columns) that these maps are brought to.
        stage: name for progress.
        on_progress: told after every batch.

    Raises:
        DataError: a picture is missing or broken.
    """
    pooled: Tensor | None = None
    on_grid: Tensor | None = None
    kept = 0
    for start, features in feature_chunks(model, paths, preparation, stage=stage, on_progress=on_progress):
        channels = features.shape[1]
        if pooled is None or on_grid is None:
            pooled = torch.empty(len(paths), channels)
            on_grid = torch.empty(len(chosen), channels, grid[0] * grid[1])
        pooled[start : start + len(features)] = features.mean(dim=(2, 3))
        here = [index - start for index in chosen if start <= index < start + len(features)]
        on_grid[kept : kept + len(here)] = features_on_grid(features[here], rows=grid[0], columns=grid[1])
        kept += len(here)
    if pooled is None or on_grid is None:
        return KeptFeatures(torch.empty(0, 0), torch.empty(0, 0, grid[0] * grid[1]))
    return KeptFeatures(pooled, on_grid)


def feature_chunks(
    model: SalfModel, paths: Sequence[Path], preparation: Preparation, *, stage: str, on_progress: Progress = silent
) -> Iterator[tuple[int, Tensor]]:
    """Feature maps a chunk at a time: (index of the first picture, FP32 [B,C,h,w])."""
    for start in range(0, len(paths), CHUNK):
        part = paths[start : start + CHUNK]

        tell = _counting_on(on_progress, before=start, pictures=len(paths))
        yield start, compute_features(model, part, preparation, stage=stage, on_progress=tell)


def _counting_on(on_progress: Progress, *, before: int, pictures: int) -> Progress:
    def tell(stage: str, done: int, total: int) -> None:  # noqa: ARG001 - of the chunk; the pass has more
        on_progress(stage, before + done, pictures)

    return tell
