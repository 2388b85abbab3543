"""Tables of concept scores, held while they are small and written to disk when they are not."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: FP32 or FP64 [N,M]: a tensor, or a memory-mapped array.
Table = Tensor | NDArray[np.float32]

_PIECE_ROWS = 4096


def fill_table(batches: Iterable[Tensor], *, count: int, columns: int, folder: Path, held_bytes: int) -> Table:
    """Collect batches of rows.

    Args:
        batches: FP32 [B,M], N rows in all.
        count: N.
        columns: M.
        folder: where a table that is too large to be held is written.
        held_bytes: largest table, at the FP64 that fitting uses, that is held.

    Returns:
        FP32 [N,M].
    """
    table: Table
    if count * columns * 8 <= held_bytes:
        table = torch.empty(count, columns)
    else:
        place = Path(mkdtemp(prefix="table-", dir=folder)) / "scores.npy"
        table = np.lib.format.open_memmap(place, "w+", np.float32, (count, columns))
    row = 0
    for batch in batches:
        if isinstance(table, Tensor):
            table[row : row + len(batch)] = batch
        else:
            table[row : row + len(batch)] = batch.numpy()
        row += len(batch)
    return table


def column_statistics(table: Table) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (N - 1) of each column, FP64 [M] each; read in pieces.

    Source: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    columns = table.shape[1]
    count, mean, squares = 0, torch.zeros(columns, dtype=torch.float64), torch.zeros(columns, dtype=torch.float64)
    for piece in pieces(table):
        rows = piece.double()
        added = len(rows)
        its_mean = rows.mean(dim=0)
        shift = its_mean - mean
        squares += ((rows - its_mean) ** 2).sum(dim=0) + shift**2 * (count * added / (count + added))
        mean = mean + shift * (added / (count + added))
        count += added
    return mean, (squares / max(1, count - 1)).sqrt()


def standardise(table: Table, mean: Tensor, std: Tensor) -> Table:
    """(table - mean) / std: FP64 for a held table; a table on disk is changed where it is and stays FP32."""
    if isinstance(table, Tensor):
        return (table.double() - mean) / std
    for start in range(0, len(table), _PIECE_ROWS):
        piece = torch.from_numpy(np.array(table[start : start + _PIECE_ROWS])).double()
        table[start : start + _PIECE_ROWS] = ((piece - mean) / std).float().numpy()
    return table


def pieces(table: Table) -> Iterator[Tensor]:
    """The rows, a few thousand at a time, as tensors [B,M]."""
    for start in range(0, len(table), _PIECE_ROWS):
        piece = table[start : start + _PIECE_ROWS]
        yield piece if isinstance(piece, Tensor) else torch.from_numpy(np.array(piece))


def right_share(table: Table, weight: Tensor, bias: Tensor, labels: NDArray[np.int64]) -> float:
    """Share of rows z whose largest logit `weight z + bias` is their label's.

    Args:
        table: [N,M].
        weight: [K,M].
        bias: [K].
        labels: INT64 [N].
    """
    predicted = [(piece.to(weight.dtype) @ weight.T + bias).argmax(dim=1) for piece in pieces(table)]
    return float((torch.cat(predicted).numpy() == labels).mean())
