"""Find the settings with which a model answers most pictures a second within a latency bound, on the real server.

It lives in serving because it starts servers, which export must not. It changes two files of the model's folder:
config.pbtxt, and the record of what was tried beside it. Answers do not depend on these settings.
"""

import fcntl
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from salf_contract import (
    CONFIG_FILE,
    ConfigError,
    Trial,
    Tuning,
    TuningRecord,
    sealed,
    served_versions,
    tuning_file,
    with_served_version,
    with_tuning,
)
from salf_serving.cores import usable_cores
from salf_serving.errors import RepositoryError, TuningFailedError
from salf_serving.load import Load, closed_loop, infer_request
from salf_serving.ports import free_port
from salf_serving.readiness import read_probe
from salf_serving.repository import PROBE_FILE, version_folders
from salf_serving.server import launch
from salf_serving.tuning_search import best_trial, search

DEFAULT_CONCURRENCY = 8
DEFAULT_BUDGET_S = 180.0
_LEAST_BUDGET_S = 10.0
#: The first part lets the caches fill and the clocks settle; long models need many requests to tell a p95.
_WARM_UP_S, _MEASURE_S = 1.0, 4.0


@dataclass(frozen=True)
class TuningGoal:
    """What to tune for.

    Attributes:
        p95_bound_ms: 95 of 100 requests must be answered within it, measured by the callers.
        concurrency: requests of one picture under way at a time.
        budget_s: time for all trials; the last one may overrun it.
    """

    p95_bound_ms: float
    concurrency: int = DEFAULT_CONCURRENCY
    budget_s: float = DEFAULT_BUDGET_S

    def __post_init__(self) -> None:
        if not 0 < self.p95_bound_ms < float("inf"):
            raise TuningFailedError(f"the bound of p95 is {self.p95_bound_ms:g} ms, expected more than 0")
        if not 1 <= self.concurrency <= 1024:
            raise TuningFailedError(f"concurrency is {self.concurrency}, expected 1 to 1024 requests at a time")
        if not self.budget_s >= _LEAST_BUDGET_S:
            raise TuningFailedError(f"the budget is {self.budget_s:g} s, expected at least {_LEAST_BUDGET_S:g}")


def tune(
    repository: Path,
    name: str,
    goal: TuningGoal,
    *,
    on_trial: Callable[[Trial, float], None] = lambda _trial, _elapsed_s: None,
    write: bool = True,
) -> TuningRecord:
    """Try settings on a server of its own, and write the best ones into the repository.

    Args:
        repository: the model repository; it may be served meanwhile, but then the figures are of a busy machine.
        name: of a model with pixel input whose version folder holds a probe.
        goal: what to tune for.
        on_trial: called after each trial, with the seconds gone.
        write: whether config.pbtxt is changed and the record is written.

    Returns:
        What was tried, and the best.

    Raises:
        RepositoryError: no such model, or it was changed meanwhile.
        TuningFailedError: no settings keep the bound; the repository is as it was.
        ServingError: the server cannot be started at all.
    """
    repository = repository.expanduser().absolute()
    folder, config, version = _served(repository, name)
    began_s = time.monotonic()
    trials: list[Trial] = []
    cores = usable_cores()
    candidates = search(cores=cores, concurrency=goal.concurrency)
    settings = next(candidates)
    with suppress(StopIteration):
        while True:
            trial = _try(folder, config, version, settings, goal)
            trials.append(trial)
            elapsed_s = time.monotonic() - began_s
            on_trial(trial, elapsed_s)
            if elapsed_s >= goal.budget_s:
                break
            settings = candidates.send(trial)
    best = best_trial(trials)
    assert best is not None
    if not best.fits:
        raise TuningFailedError(
            f"none of {len(trials)} settings of {name} answers 95 % within {goal.p95_bound_ms:g} ms at concurrency "
            f"{goal.concurrency}; the best needs {best.p95_ms:.1f} ms: allow more, or fewer requests at a time"
        )
    record = TuningRecord(
        model=name,
        version=version,
        p95_bound_ms=goal.p95_bound_ms,
        concurrency=goal.concurrency,
        machine={"cores": str(cores), "system": platform.platform()},
        best=best.settings,
        trials=tuple(trials),
    )
    if write:
        _write(repository, folder, config, record)
    return record


def _served(repository: Path, name: str) -> tuple[Path, str, int]:
    """A model's folder, its config.pbtxt, and the version that is served."""
    folder = repository / name
    try:
        config = (folder / CONFIG_FILE).read_text(encoding="utf-8")
        named = served_versions(config)
    except OSError as error:
        raise RepositoryError(f"there is no model {name!r} in {repository}: {error.strerror}") from error
    except (UnicodeDecodeError, ConfigError) as error:
        raise RepositoryError(f"{folder / CONFIG_FILE} cannot be read: {error}") from error
    present = [int(path.name) for path in version_folders(folder)]
    versions = present[-1:] if named is None else [version for version in named if version in present]
    if len(versions) != 1:
        served, there = (", ".join(map(str, numbers)) or "none" for numbers in (versions, present))
        raise RepositoryError(
            f"{folder / CONFIG_FILE} must serve one version to be tuned, but serves {served} of those that are there "
            f"({there}); let its version_policy name one of them"
        )
    if not (folder / str(versions[0]) / PROBE_FILE).is_file():
        raise RepositoryError(f"{name} version {versions[0]} has no {PROBE_FILE} to ask with; export it again")
    return folder, config, versions[0]


def _try(folder: Path, config: str, version: int, settings: Tuning, goal: TuningGoal) -> Trial:
    """Start a server with one model and these settings, and put the load on it."""
    probe = read_probe(folder / str(version) / PROBE_FILE)
    assert probe is not None
    with tempfile.TemporaryDirectory(prefix="salf-tune-") as aside:
        model = Path(aside) / "models" / folder.name
        model.mkdir(parents=True)
        (model / str(version)).symlink_to(folder / str(version))
        try:
            text = with_tuning(with_served_version(config, version), settings)
        except ConfigError as error:
            raise TuningFailedError(f"{folder.name} cannot be tuned: {error}") from error
        (model / CONFIG_FILE).write_text(text, encoding="utf-8")
        with launch(
            model.parent, grpc_port=free_port(), log_file=Path(aside) / "triton.log", startup_timeout_s=120.0
        ) as server:
            load = closed_loop(
                server.grpc_address,
                infer_request(folder.name, probe.inputs),
                concurrency=goal.concurrency,
                warm_up_s=_WARM_UP_S,
                measure_s=max(_MEASURE_S, goal.p95_bound_ms / 1e3 * 5),
            )
    return _judge(folder.name, settings, load, goal)


def _judge(name: str, settings: Tuning, load: Load, goal: TuningGoal) -> Trial:
    """Whether what came back keeps the goal; settings that lose a request do not, however fast."""
    if not len(load.latencies_ms):
        raise TuningFailedError(
            f"{name} answered nothing within {load.seconds:g} s; allow more with a larger bound of p95"
        )
    p95_ms = load.percentile_ms(95)
    return Trial(
        settings=settings,
        pictures_per_s=load.pictures_per_s,
        p50_ms=load.percentile_ms(50),
        p95_ms=p95_ms,
        requests=len(load.latencies_ms),
        fits=p95_ms <= goal.p95_bound_ms and load.failures == 0,
    )


def _write(repository: Path, folder: Path, config: str, record: TuningRecord) -> None:
    """Put record and settings into the repository, if its config.pbtxt is still the one that was tuned."""
    try:
        with _locked(repository):
            if (folder / CONFIG_FILE).read_text(encoding="utf-8") != config:
                raise RepositoryError(
                    f"{folder / CONFIG_FILE} was changed while {record.model} was tuned; tune it again"
                )
            _replace(folder / tuning_file(record.version), record.to_json())
            _replace(folder / CONFIG_FILE, sealed(with_tuning(config, record.best)))
    except OSError as error:
        raise RepositoryError(f"the tuning of {record.model} could not be written: {error}") from error


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """The lock that salf_export takes as well: one process changes a repository at a time."""
    descriptor = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
