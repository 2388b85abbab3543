"""Which settings to try next: one axis after another, coarse, then around the best."""

from collections.abc import Generator, Iterable, Sequence

from salf_contract import Trial, Tuning

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_DELAYS_MICROSECONDS = (0, 100, 500, 2000)


def search(*, cores: int, concurrency: int) -> Generator[Tuning, Trial, None]:
    """Give settings to try; gets each one's trial sent, and ends when nothing near the best is left.

    Args:
        cores: of the machine; copies times threads never exceed them.
        concurrency: requests under way at a time; larger batches than that never fill.
    """
    tried: dict[Tuning, Trial] = {}
    start = Tuning(
        max_batch_size=_largest_batch(8, concurrency), instances=1, threads=cores, max_queue_delay_microseconds=100
    )
    for axis in (_copies, _batches, _delays, _near):
        while True:
            best = best_trial(tuple(tried.values()))
            around = start if best is None else best.settings
            for settings in axis(around, cores=cores, concurrency=concurrency):
                if settings not in tried:
                    tried[settings] = yield settings
            # The coarse axes are gone along once; around the best it goes on while it gets better.
            if axis is not _near or best_trial(tuple(tried.values())) == best:
                break


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The fastest within the bound; where none is, the one with the least latency. None of none."""
    return max(
        trials, key=lambda trial: (trial.fits, trial.pictures_per_s if trial.fits else -trial.p95_ms), default=None
    )


def _copies(around: Tuning, *, cores: int, concurrency: int) -> Iterable[Tuning]:
    """Copies of the model and threads of each, from one copy with all cores to a copy for each core."""
    instances = 1
    while instances <= min(cores, concurrency):
        yield around.model_copy(update={"instances": instances, "threads": max(1, cores // instances)})
        instances *= 2
    if cores > 1:
        yield around.model_copy(update={"instances": 1, "threads": 1})


def _batches(around: Tuning, *, cores: int, concurrency: int) -> Iterable[Tuning]:  # noqa: ARG001 - one of the axes
    for size in _BATCH_SIZES:
        if size <= concurrency:
            yield around.model_copy(update={"max_batch_size": size})


def _delays(around: Tuning, *, cores: int, concurrency: int) -> Iterable[Tuning]:  # noqa: ARG001 - one of the axes
    if around.max_batch_size > 1:
        for delay in _DELAYS_MICROSECONDS:
            yield around.model_copy(update={"max_queue_delay_microseconds": delay})


def _near(around: Tuning, *, cores: int, concurrency: int) -> Iterable[Tuning]:
    """One step up and down on every axis."""
    delay, size = around.max_queue_delay_microseconds, around.max_batch_size
    steps = [{"instances": around.instances + 1}, {"threads": around.threads + 1}, {"instances": around.instances - 1}]
    steps += [{"max_batch_size": number} for number in (size * 3 // 2, size * 3 // 4)]
    steps += [{"max_queue_delay_microseconds": number} for number in ((delay // 2, delay * 2) if size > 1 else ())]
    for step in steps:
        settings = around.model_copy(update=step)
        fits_machine = settings.instances >= 1 and settings.instances * settings.threads <= cores
        if fits_machine and 1 <= settings.max_batch_size <= concurrency and settings != around:
            yield settings


def _largest_batch(wanted: int, concurrency: int) -> int:
    return max(size for size in _BATCH_SIZES if size <= min(wanted, concurrency))
