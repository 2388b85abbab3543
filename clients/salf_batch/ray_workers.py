"""What each worker of a Ray cluster does: makes one part after the other, and says what the rows came to.

Nothing here needs Ray, which `salf_batch.ray_engine` drives.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from salf_batch.errors import BatchError
from salf_batch.plans import Plan, asking_of, write_rows
from salf_batch.progress import Tally
from salf_batch.rows import Row
from salf_batch.sources import Input
from salf_batch.spool import unpacked
from salf_batch.stores import RetryCount
from salf_batch.targets import part_of
from salf_client import ClientError


class ShardScorer:
    """What a worker of the cluster is: one process that makes part after part.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Make one part, unless it is there.

        Args:
            block: `shard`, its number, and `inputs`, packed.

        Returns:
            `outcome`, JSON: what was asked again, and what the rows came to, or `failed`, the name of one of our errors
            and what it says: of an error that is raised here, Ray gives the text only, with all its traces.
        """
        shard: int = block["shard"]
        reads, tally, target = RetryCount(), Tally(), self._plan.target
        writes_before = Counter(target.retries.counts)
        outcome: dict[str, Any]
        try:
            part = part_of(target, self._plan.manifest, shard)
            if part is not None:
                outcome = _counts_of(part.asked(partial(_label_columns, part)))
            else:
                rows = asyncio.run(self._made(unpacked(block["inputs"], reads), tally=tally, reads=reads))
                write_rows(self._plan, shard, rows)
                outcome = _counts_of((row.get("error"), row.get("label")) for row in rows)
        except (BatchError, ClientError) as error:
            outcome = {"failed": [type(error).__name__, str(error)]}
        outcome |= {
            "requests_repeated": tally.requests_repeated,
            "reads_repeated": _listed(reads.counts),
            "writes_repeated": _listed(Counter(target.retries.counts) - writes_before),
        }
        return {"outcome": json.dumps(outcome)}

    async def _made(self, inputs: list[tuple[int, Input]], *, tally: Tally, reads: RetryCount) -> list[Row]:
        async with asking_of(self._plan, tally=tally, retries=reads) as asking:
            return [row async for row in asking.rows(inputs)]


def _counts_of(rows: Iterable[tuple[str | None, str | None]]) -> dict[str, Any]:
    """Of (error, label) of each row."""
    labels: Counter[str] = Counter()
    count = errors = 0
    for error, label in rows:
        count += 1
        errors += error is not None
        if error is None and label is not None:
            labels[label] += 1
    return {"rows": count, "errors": errors, "labels": dict(labels)}


def _listed(counts: Mapping[tuple[str, str], int]) -> list[tuple[str, str, int]]:
    return [(store, reason, times) for (store, reason), times in counts.items()]


def _label_columns(part: Any) -> list[tuple[str | None, str | None]]:
    import pyarrow.parquet as parquet

    with part.files.open(part.path, "rb") as file:
        table = parquet.read_table(file, columns=["error", "label"])
    return list(zip(table["error"].to_pylist(), table["label"].to_pylist(), strict=True))
