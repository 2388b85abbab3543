"""Time several things against each other in the same minutes, so that the machine's mood cancels out."""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_BLOCKS = 5


@dataclass(frozen=True)
class Timings:
    """Seconds of each contender, round by round.

    Attributes:
        seconds: contender -> one time per round; index r of all contenders is the same round.
    """

    seconds: Mapping[str, tuple[float, ...]]

    def median_ms(self, name: str) -> float:
        """Median time of a contender in milliseconds."""
        return 1e3 * statistics.median(self.seconds[name])

    def ratio(self, name: str, over: str) -> tuple[float, tuple[float, float]]:
        """Median of the per-round ratios, and its spread.

        Returns:
            The median over all rounds, and (smallest, largest) median of five consecutive blocks of rounds.
        """
        pairs = zip(self.seconds[name], self.seconds[over], strict=True)
        ratios = [mine / other for mine, other in pairs]
        return statistics.median(ratios), spread_of_blocks(ratios)


def spread_of_blocks(values: Sequence[float]) -> tuple[float, float]:
    """(Smallest, largest) median of five consecutive blocks of rounds; what is left over at the end is left out."""
    size = max(1, len(values) // _BLOCKS)
    blocks = [values[start : start + size] for start in range(0, size * _BLOCKS, size)]
    medians = [statistics.median(block) for block in blocks if block]
    return min(medians), max(medians)


def time_interleaved(contenders: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int) -> Timings:
    """Call every contender once per round, in a shuffled order: nobody always runs on another's caches.

    Args:
        contenders: name -> what to time.
        rounds: timed rounds.
        warm_up: rounds before, not timed.
    """
    order = random.Random(0)
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        order.shuffle(names)
        for name in names:
            start = time.perf_counter()
            contenders[name]()
            elapsed = time.perf_counter() - start
            if number >= warm_up:
                seconds[name].append(elapsed)
    return Timings({name: tuple(values) for name, values in seconds.items()})
