"""The head fitted on scores that lie on disk: the same head, never held whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from head_problems import CLASSES, problem

from salf_training.head import HeadTraining, fit_head, fit_path, head_with_nec


def on_disk(scores: torch.Tensor, folder: Path, dtype: type) -> np.ndarray:
    table = np.lib.format.open_memmap(folder / "scores.npy", "w+", dtype, tuple(scores.shape))
    table[:] = scores.numpy()
    table.flush()
    return np.lib.format.open_memmap(folder / "scores.npy", "r")


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize(
    ("dtype", "piece_rows"), [(np.float64, 50), (np.float64, 1000), (np.float32, 50), (np.float16, 50)]
)
def test_scores_on_disk_give_the_head_of_scores_in_memory(tmp_path, dtype, piece_rows):
    # The L2 part makes the optimum unique. 120 pictures: pieces of 50 do not divide evenly, one of 1000 holds them all.
    scores, labels = problem(11, skew=1.0)
    table = on_disk(scores, tmp_path, dtype)
    held = torch.from_numpy(np.array(table)).to(torch.float64 if dtype is np.float64 else torch.float32)
    fit = {"classes": CLASSES, "l1": 0.01, "l2": 0.01, "tolerance": 1e-8, "max_iterations": 500}
    in_memory = fit_head(held, labels, **fit)
    streamed = fit_head(table, labels, piece_rows=piece_rows, **fit)
    assert in_memory.weight.any()
    assert streamed.weight.dtype == in_memory.weight.dtype
    assert torch.equal(streamed.weight != 0, in_memory.weight != 0)
    close = 1e-6 if dtype is np.float64 else 1e-4
    assert (streamed.weight - in_memory.weight).abs().max() < close
    assert (streamed.bias - in_memory.bias).abs().max() < close


def test_the_path_and_the_wanted_number_of_concepts_work_on_disk_too(tmp_path):
    scores, labels = problem(12)
    table = on_disk(scores, tmp_path, np.float64)
    settings = HeadTraining(path_length=8, tolerance=1e-6)
    heads = []
    for given_scores in (scores, table):
        path = fit_path(given_scores, labels, classes=CLASSES, settings=settings)
        heads.append(head_with_nec(path, 3, scores=given_scores, labels=labels, settings=settings))
    assert (heads[0].weight - heads[1].weight).abs().max() < 1e-4
    assert int((heads[1].weight != 0).sum(dim=1).max()) == 3


def rss_anon_kib() -> int:
    return next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line
    )


@pytest.mark.usefixtures("either_method")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")
def test_a_table_on_disk_is_not_held(tmp_path):
    count, concepts, piece_rows = 40_000, 400, 512  # 64 MB on disk, 0.8 MB a piece
    random = np.random.default_rng(0)
    table = np.lib.format.open_memmap(tmp_path / "scores.npy", "w+", np.float32, (count, concepts))
    for row in range(0, count, 5000):
        table[row : row + 5000] = random.standard_normal((5000, concepts), dtype=np.float32)
    labels = torch.from_numpy((table[:, 0] > 0).astype(np.int64))
    table = np.lib.format.open_memmap(tmp_path / "scores.npy", "r")
    most = 0

    class Watched:
        """Hands the table through and looks at the memory at every piece."""

        shape, dtype = table.shape, table.dtype

        def __getitem__(self, rows):
            nonlocal most
            most = max(most, rss_anon_kib())
            return table[rows]

    fit_head(table[:2000], labels[:2000], classes=2, l1=0.01, l2=0.0, max_iterations=2)  # buffers of the libraries
    before = rss_anon_kib()
    head = fit_head(Watched(), labels, classes=2, l1=0.05, l2=0.0, max_iterations=4, piece_rows=piece_rows)
    assert head.weight[:, 0].abs().min() > 0
    assert most > 0
    assert (most - before) * 1024 < table.nbytes / 6, "pieces are held, not the table"
