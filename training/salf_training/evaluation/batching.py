"""Prepared pictures as tensors, a batch at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from salf_contract import Preparation
from salf_training.image_folder import batches_of_pixels

_BATCH = 32


def batches(paths: Sequence[Path], preparation: Preparation) -> Iterator[tuple[Tensor, int]]:
    """(UINT8 [B,H,W,3], how many pictures were handed out so far), in order.

    Raises:
        DataError: a file is missing or no picture.
    """
    done = 0
    for pixels in batches_of_pixels(paths, preparation, batch_size=_BATCH):
        done += len(pixels)
        yield torch.from_numpy(pixels), done
