"""Scoring on the machines of a Ray cluster: each block of a Ray dataset is a shard, each of its workers makes parts.

Ray places the workers, starts dead ones again and gives their shards to others. What makes a row appear exactly once is
ours: a part appears whole or not at all, and a worker that is given a shard again finds its part and leaves it.
"""

import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import salf_client
from salf_batch import errors
from salf_batch.errors import BatchError, EngineError, MissingExtraError, ShardsFailedError
from salf_batch.plans import Plan, for_workers
from salf_batch.progress import Progress, Tally
from salf_batch.ray_workers import ShardScorer
from salf_batch.shards import shards_left
from salf_batch.sources import Input, Source
from salf_batch.spool import packed
from salf_client import ClientError

#: Shards of one dataset: the names of their inputs are in Ray's object store at the same time.
_SHARDS_AT_ONCE = 1000
#: Of a cluster that is started for one run; blocks are names of pictures, and counts.
_OBJECT_STORE_BYTES = 100 * 2**20
#: Of this machine alone. Ray takes 127.0.0.1 for a mistake, and replaces it by an address that others reach.
_LOOPBACK = "127.0.0.2"
_CONNECT_S = 10.0
#: A worker that dies again and again while it starts will not get better.
_DEATHS_WHILE_STARTING = 3


def score_on_ray(plan: Plan, source: Source, done: set[int], tally: Tally, report: Callable[[Progress], None]) -> None:
    """Make all parts that are left.

    Args:
        plan: of the run.
        source: lists the inputs.
        done: shards that have a part.
        tally: counts rows and repeated requests; the source and the target count what workers asked their stores again.
        report: hears of each part.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: the cluster cannot be reached, or broke down.
        ShardsFailedError: some shards failed, and so many may.
        BatchError: as `score` does; so does ClientError.
    """
    try:
        import ray.data
    except ImportError as error:
        raise MissingExtraError("--engine ray needs Ray; install it with: pip install 'salf[ray]'") from error
    shards = shards_left(source, plan.manifest, done)
    first = next(shards, None)
    if first is None:
        return
    plan = for_workers(plan)
    failed, left = _Failed(plan.settings.failing_shards), plan.manifest.shards - len(done)
    with _cluster(plan) as workers, _quiet_context(ray.data) as context:
        try:
            for window in _windows(first, shards):
                context.max_errored_blocks = failed.left  # which Ray counts anew for each dataset
                results = _results(ray.data, window, plan, workers=min(workers, left))
                missing = len(window)
                # What still runs must end before the connection does: it would connect again, by itself.
                with closing(results):
                    for counts in results:
                        missing -= 1
                        _count_repeated(counts, plan, source, tally)
                        if "failed" in counts:
                            failed.add(_error_of(*counts["failed"]))
                            continue
                        left -= 1
                        _count(counts, tally)
                        report(Progress("scoring", source.count, tally.done, tally.errors))
                failed.add_lost(missing)
        except (BatchError, ClientError):
            raise
        except Exception as error:
            raise EngineError(
                f"the Ray cluster broke down ({_last_line(error)}); what is done stays: run again when it is back"
            ) from error
    if left:
        why = failed.first or "Ray's log says why"
        raise ShardsFailedError(
            f"{left} of {plan.manifest.shards} shards failed and have no rows yet ({why}); run again"
        )


@dataclass
class _Failed:
    """Shards that failed in this run, whatever the reason.

    Attributes:
        left: so many more may fail.
        first: what the first one failed with, if its worker could say so.
    """

    left: int
    first: BatchError | ClientError | None = None

    def add(self, error: BatchError | ClientError) -> None:
        """Count one; raises its error if it is one too many."""
        self.left -= 1
        if self.left < 0:
            raise error
        self.first = self.first or error

    def add_lost(self, shards: int) -> None:
        """Count those that Ray gave up, since their workers died."""
        self.left -= shards
        if self.left < 0:
            raise EngineError(
                "the workers of more shards died than may fail (--failing-shards); what is done stays: see Ray's log, "
                "and run again"
            )


def _count(counts: Mapping[str, Any], tally: Tally) -> None:
    """Add a worker's rows to those of the run."""
    tally.done += counts["rows"]
    tally.scored += counts["rows"]
    tally.errors += counts["errors"]
    tally.labels.update(counts["labels"])


def _count_repeated(counts: Mapping[str, Any], plan: Plan, source: Source, tally: Tally) -> None:
    """Add what a worker asked again, whatever came of it."""
    tally.requests_repeated += counts["requests_repeated"]
    for count, name in ((source.retries, "reads_repeated"), (plan.target.retries, "writes_repeated")):
        for store, reason, times in counts[name]:
            count.add(store, reason, times)


def _results(
    data: Any, window: list[dict[str, Any]], plan: Plan, *, workers: int
) -> Generator[dict[str, Any], None, None]:
    import ray

    dataset = data.from_items(window, override_num_blocks=len(window)).map(
        ShardScorer,
        fn_constructor_args=(plan,),
        compute=data.ActorPoolStrategy(size=max(1, workers)),
        num_cpus=plan.settings.worker_cpus,
    )
    # Not `iter_rows`, whose threads that read ahead hold the dataset's run beyond this loop; so it ends with the loop.
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.blocks:
            for row in data.block.BlockAccessor.for_block(ray.get(block.ref)).iter_rows(public_row_format=True):
                yield json.loads(row["outcome"])


def _windows(
    first: tuple[int, list[tuple[int, Input]]], others: Iterable[tuple[int, list[tuple[int, Input]]]]
) -> Iterator[list[dict[str, Any]]]:
    """Blocks of one dataset after the other, so that names of a billion pictures are never in one."""
    shards = iter(others)
    window = [first, *islice(shards, _SHARDS_AT_ONCE - 1)]
    while window:
        yield [{"shard": shard, "inputs": packed(inputs)} for shard, inputs in window]
        window = list(islice(shards, _SHARDS_AT_ONCE))


@contextmanager
def _cluster(plan: Plan) -> Iterator[int]:
    """Connect to a cluster, or run one on this machine; yields how many workers it has room for.

    A connection that is there already is used, and stays.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    settings = plan.settings
    address = settings.ray_address or os.environ.get("RAY_ADDRESS")
    was_connected, folder = ray.is_initialized(), None
    sets_signals = not was_connected and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        if sets_signals:
            signal.signal(signal.SIGTERM, _end)
        if not was_connected and address:
            _check_reachable(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        elif not was_connected:
            # Ray's sockets need a short path, and its folder shall not outlive the run.
            folder = tempfile.mkdtemp(prefix="salf-ray-", dir="/tmp")
            ray.init(
                num_cpus=len(os.sched_getaffinity(0)),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address=_LOOPBACK,
                _temp_dir=folder,
            )
        if sets_signals:  # again: Ray's own way to end prints traces, and leaves the folder
            signal.signal(signal.SIGTERM, _end)
        cores = float(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        room = int(cores / settings.worker_cpus)
        if room < 1:
            raise EngineError(
                f"the Ray cluster has {cores:g} cores, too few for one worker of "
                f"{settings.worker_cpus:g}; give fewer with --worker-cpus"
            )
        yield min(room, settings.workers or room)
    except (OSError, RuntimeError, ValueError) as error:  # what `ray.init` raises
        raise EngineError(
            f"no Ray cluster can be used at {address or 'this machine'} ({_last_line(error)}); check --ray-address"
        ) from error
    finally:
        if not was_connected:
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(Path(folder), ignore_errors=True)
        if sets_signals:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _end(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes.

    Raises:
        OSError: nothing listens there.
        ValueError: no address.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_CONNECT_S):
        pass


@contextmanager
def _quiet_context(data: Any) -> Iterator[Any]:
    """Ray Data's settings, for this run: our progress instead of its own, and how many blocks may fail."""
    context = data.DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "enable_rich_progress_bars": False,
        "print_on_execution_start": False,
        "max_errored_blocks": 0,
        "max_consecutive_actor_init_deaths": _DEATHS_WHILE_STARTING,
    }
    before = {name: getattr(context, name) for name in wanted}
    logger = logging.getLogger("ray.data")
    level = logger.level
    for name, value in wanted.items():
        setattr(context, name, value)
    logger.setLevel(logging.CRITICAL)
    try:
        yield context
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)


def _error_of(name: str, said: str) -> BatchError | ClientError:
    kind = getattr(errors, name, None) or getattr(salf_client, name)
    error: BatchError | ClientError = kind(said)
    return error


def _last_line(error: BaseException) -> str:
    """Ray puts traces before what it has to say."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
