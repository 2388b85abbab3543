"""Similarity runs in processes of their own, to be killed and weighed. Imported by the tests and by those processes."""

import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from salf_contract import Preparation
from salf_training.embeddings import cached_prompt_embeddings
from salf_training.encoder import Encoder
from salf_training.prompts import CircleSettings
from salf_training.resumable_table import filled_table

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


def rows_from(start: int) -> Iterator[NDArray[np.float16]]:
    """Rows `start` to 13 of a table: 1 kB that waits in the file's buffer, 12 kB that do not fit in, 1 kB again."""
    table = (np.arange(14 * 500) % 997).astype(np.float16).reshape(14, 500)
    for rows in (slice(0, 1), slice(1, 13), slice(13, 14)):
        if rows.stop > start:
            yield table[max(start, rows.start) : rows.stop]


def kill_at_every_line(root: Path) -> None:
    """Fill ROOT/1, ROOT/2, ..., and kill the n-th run at the n-th line that resumable_table runs; then once more.

    The last folder is the one in which the first run came to its end.
    """
    for last_line in itertools.count(1):
        exit_codes = [_in_a_fork(root / str(last_line), last_line) for _ in range(2)]
        if exit_codes[0] == 0:
            return
        assert set(exit_codes) <= {0, -signal.SIGKILL}, exit_codes


def _in_a_fork(folder: Path, last_line: int) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _fill_until(folder, last_line)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _fill_until(folder: Path, last_line: int) -> None:
    """Fill a table and die as by `kill -9` at a line; FOLDER.done says how many rows were told of."""
    lines_run = 0

    def count(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal lines_run
        if Path(frame.f_code.co_filename).name != "resumable_table.py":
            return None
        lines_run += event == "line"
        if lines_run == last_line:
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    def tell(done: int) -> None:
        folder.with_suffix(".done").write_text(str(done))

    sys.settrace(count)
    filled_table(folder, rows_from, rows=14, on_rows=tell, sync_every_s=0)
    sys.settrace(None)


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
