"""Similarity runs in processes of their own, to be killed and weighed. Imported by the tests and by those processes."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from salf_contract import Preparation
from salf_training.embeddings import cached_prompt_embeddings
from salf_training.encoder import Encoder
from salf_training.prompts import CircleSettings

CIRCLES = CircleSettings(rows=2, columns=2, line_width=0.1)


class SlowProjection:
    """An Encoder: a fixed random projection of the pixels, which takes its time."""

    image_size = (16, 16)

    def __init__(self, seconds_per_batch: float, width: int) -> None:
        self.fingerprint = "projection"
        self._seconds, self._width = seconds_per_batch, width
        self._weight = torch.randn(16 * 16 * 3, width, generator=torch.Generator().manual_seed(0))

    def embed_images(self, pixels: Tensor) -> Tensor:
        time.sleep(self._seconds)
        return F.normalize(pixels.flatten(1).float() @ self._weight, dim=-1)

    def embed_texts(self, phrases: Sequence[str]) -> Tensor:
        return F.normalize(torch.ones(len(phrases), self._width), dim=-1)


def slow_projection(seconds_per_batch: float = 0.0, width: int = 24) -> Encoder:
    """The factory that settings would name."""
    return SlowProjection(seconds_per_batch, width)


def run(cache: Path, paths: list[Path], seconds_per_batch: float, progress: Path | None = None) -> None:
    """One run of the stage; says in a file how far it is."""

    def note(_stage: str, done: int, _total: int) -> None:
        if progress is not None:
            with progress.open("a") as file:
                file.write(f"{done}\n")

    torch.set_num_threads(1)
    cached_prompt_embeddings(
        cache,
        paths,
        slow_projection(seconds_per_batch, width=512),  # a batch is too large to wait in the file's buffer
        CIRCLES,
        preparation=Preparation(height=16, width=16),
        batch_size=4,
        sync_every_s=0.05,
        on_progress=note,
    )


def run_weighed(cache: Path, path: Path, count: int, out: Path) -> None:
    """A run over one picture `count` times; writes its largest anonymous memory in bytes, sampled at every step.

    Embeddings are as wide as CLIP's: 4 KiB a picture. If 9,000 more of them were held, that would be a fifth more.
    """
    largest = 0

    def weigh(_stage: str, done: int, _total: int) -> None:
        nonlocal largest
        if done % 200 < 50:
            largest = max(largest, anonymous_bytes())

    torch.set_num_threads(1)
    cached_prompt_embeddings(
        cache,
        [path] * count,
        slow_projection(width=512),
        CIRCLES,
        preparation=Preparation(height=16, width=16),
        batch_size=50,
        on_progress=weigh,
    )
    out.write_text(str(max(largest, anonymous_bytes())))


def anonymous_bytes() -> int:
    """RssAnon of this process: what it holds beside mapped files."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024
