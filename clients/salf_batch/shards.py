"""What is left to do, as inputs or shard by shard."""

from collections.abc import Iterator
from itertools import groupby

from salf_batch.sources import Input, Source
from salf_batch.targets import Manifest


def inputs_left(source: Source, manifest: Manifest, done: set[int]) -> Iterator[tuple[int, Input]]:
    """Inputs without a row, with their index."""
    for index, one in enumerate(source.again()):
        if index // manifest.shard_size not in done:
            yield index, one


def shards_left(source: Source, manifest: Manifest, done: set[int]) -> Iterator[tuple[int, list[tuple[int, Input]]]]:
    """Shards without a part: their number and their inputs."""
    left = inputs_left(source, manifest, done)
    for shard, inputs in groupby(left, key=lambda one: one[0] // manifest.shard_size):
        yield shard, list(inputs)
