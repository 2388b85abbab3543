"""A Triton that is started again when it dies, with the models that were last found good."""

import logging
import os
import select
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from salf_contract import CONFIG_FILE
from salf_serving.control import load_model, retiring, touch, unload_model, workers
from salf_serving.errors import RefusedVersionError, ServingError, StartError
from salf_serving.process import GuardedProcess
from salf_serving.readiness import client, loaded_models, probe_model
from salf_serving.restarts import Restarts
from salf_serving.server import RunningServer, launched
from salf_serving.settings import LaunchSettings
from salf_serving.snapshot import versions_to_serve
from salf_serving.status import Status
from salf_serving.watch import Change

#: How often one Triton may give models new workers. Of one that was killed while it waited for another model, Triton
#: keeps the shared memory (some MB for each worker of that model) until it ends; this bounds what is kept.
_MOST_RELOADS = 8
#: Meanwhile nothing is inferred; a Triton that takes longer has other troubles.
_TAKE_OUT_S = 5.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    server: RunningServer
    process: GuardedProcess
    stack: ExitStack


class KeptTriton:
    """One Triton on the folder of served copies; used by one thread at a time."""

    def __init__(self, settings: LaunchSettings, status: Status) -> None:
        """Start nothing yet.

        Args:
            settings: its repository is the folder of served copies. Without a `control_key`, models change by
                starting Triton again.
            status: is told of everything.
        """
        self._settings, self._status = settings, status
        self._models = settings.repository
        self._run: _Run | None = None
        self._restarts = Restarts("Triton")
        self._worker_ends: dict[int, str] = {}
        self._retiring: set[int] = set()
        self._reloads = 0
        self._told: set[str] = set()

    @property
    def server(self) -> RunningServer:
        """The running server.

        Raises:
            ServingError: none is running.
        """
        if self._run is None:
            raise ServingError("Triton is not running")
        return self._run.server

    def start(self) -> None:
        """Start and probe all models.

        Raises:
            ServingError: see `launch`.
        """
        stack = ExitStack()
        server, process = stack.enter_context(launched(self._settings))
        self._run = _Run(server, process, stack)
        self._retiring, self._reloads = set(), 0
        self._watch_workers({})
        for model in {model.name for model in server.models}:
            self._tell_versions(model, new=model not in self._told)
        self._status.set_problem("triton", None)

    def stop(self) -> int:
        """End Triton and all its workers; returns its exit status (0: a clean end)."""
        self._forget_workers()
        if self._run is None:
            return 0
        run, self._run = self._run, None
        run.stack.close()
        return int(run.process.guard.returncode or 0)

    def died(self) -> bool:
        """Whether Triton is gone although nobody stopped it."""
        run = self._run  # once: another thread may be stopping it
        return run is None or run.process.ended()

    def start_again(self, reason: str) -> None:
        """End what is left of Triton and start it anew, after a pause that grows with each death.

        Raises:
            ServerDiedError: it died too often.
        """
        self._status.set_problem("triton", reason)
        log_file = self._settings.log_file
        pause_s = self._restarts.pause_s(f"{reason}; its log is {log_file}")
        _logger.warning("Triton is started again: %s", reason)
        self.stop()
        if log_file is not None and log_file.exists():
            log_file.replace(log_file.with_name(log_file.name + ".1"))
        time.sleep(pause_s)
        self._status.restarts.labels("triton").inc()
        try:
            self.start()
        except ServingError as error:
            _logger.error("Triton could not be started again: %s", error)  # noqa: TRY400 - the sentence says it all
            self._status.set_problem("triton", str(error))

    def dead_workers(self) -> tuple[str, ...]:
        """Models that lost a worker since the last look."""
        poll = select.poll()
        for handle in self._worker_ends:
            poll.register(handle, select.POLLIN)
        return tuple(sorted({self._worker_ends[handle] for handle, _ in poll.poll(0)}))

    def take_out(self, model: str) -> bool:
        """Let Triton answer nobody about a model until it is loaded again.

        Returns:
            Whether it could be done; without a `control_key` it cannot.
        """
        if self._settings.control_key is None:
            return False
        try:
            unload_model(self.server.grpc_address, model, control_key=self._settings.control_key,
                         timeout_s=_TAKE_OUT_S)  # fmt: skip
        except ServingError as error:
            _logger.warning("%s", error)
            return False
        return True

    def reload(self, model: str, reason: str) -> bool:
        """Give a model new workers; those of its workers that live serve on until then.

        Returns:
            Whether the same Triton goes on, and not a new one.

        Raises:
            ServerDiedError: Triton had to be started again, and died too often.
        """
        self._status.set_problem(f"model {model}", reason)
        self._status.worker_restarts.labels(model).inc()
        _logger.warning("model %s is loaded again: %s", model, reason)
        if self._settings.control_key is None or self._reloads >= _MOST_RELOADS:
            self.start_again(f"model {model}: {reason}")
            return False
        self._reloads += 1
        before = self._workers()
        try:
            touch(self._models / model)
            self._load([model])
            self.probe([model])
        except (ServingError, OSError) as error:
            if not self.died():
                self.start_again(f"model {model} could not be loaded again: {error}")
            return False
        finally:
            self._watch_workers(before)
        self._status.set_problem(f"model {model}", None)
        return True

    def probe(self, models: Iterable[str]) -> None:
        """Ask models for their known answers.

        Raises:
            ProbeError: an answer is wrong.
            StartError: a model is not served.
        """
        wanted = set(models)
        self._status.beat()
        deadline_s = time.monotonic() + self._settings.startup_timeout_s
        with client(self.server.grpc_address) as connection:
            served = loaded_models(connection, self._settings.control_key, deadline_s=deadline_s)
            for name, version in served:
                if name in wanted:
                    probe_model(connection, self._models, name, version, deadline_s=deadline_s)
        if missing := wanted - {name for name, _ in served}:
            raise StartError(f"Triton does not serve {', '.join(sorted(missing))}")

    def apply(self, change: Change) -> None:
        """Put a change into service; what was served before serves until then, and stays if the change fails.

        Raises:
            RefusedVersionError: the change does not work here although it did on trial; the old models are back.
            ServerDiedError: Triton had to be started again, and died too often.
        """
        workers_before = self._workers()
        before = change.folder / "before"
        try:
            self._swap(change, out=before)
            self._take_over(change)
        except (ServingError, OSError) as error:  # a port is taken, the disk is full, or what was tried does not work
            self._swap_back(change, out=before)
            shutil.rmtree(change.folder, ignore_errors=True)
            self._bring_back(change, str(error))
            raise RefusedVersionError(str(error), reason="load") from error
        finally:
            self._watch_workers(workers_before)
        for name in change.copies:
            self._tell_versions(name, new=True)
            self._status.changes.labels(name).inc()
        for name in change.removed:
            self._told.discard(name)
            self._status.serving(name, {})
        shutil.rmtree(change.folder, ignore_errors=True)

    def _take_over(self, change: Change) -> None:
        if self._settings.control_key is None:
            self.stop()
            self.start()
            return
        self._load(name for name in change.copies if (self._models / name).exists())
        self.probe(name for name in change.copies if (self._models / name).exists())
        for name in (*change.removed, *change.copies):
            if not (self._models / name).exists():
                unload_model(self.server.grpc_address, name, control_key=self._settings.control_key,
                             timeout_s=self._settings.startup_timeout_s)  # fmt: skip

    def _bring_back(self, change: Change, reason: str) -> None:
        try:
            if not self.died():
                self._take_over(change)
                return
        except ServingError as error:
            reason = str(error)
        self.start_again(reason)

    def _load(self, models: Iterable[str]) -> None:
        # Ensembles come last: they take the models below them as they find them.
        for name in sorted(models, key=lambda name: (self._is_ensemble(name), name)):
            self._status.beat()  # each may take as long as a start
            load_model(self.server.grpc_address, name, control_key=str(self._settings.control_key),
                       timeout_s=self._settings.startup_timeout_s)  # fmt: skip

    def _is_ensemble(self, name: str) -> bool:
        return "ensemble_scheduling" in (self._models / name / CONFIG_FILE).read_text()

    def _swap(self, change: Change, *, out: Path) -> None:
        out.mkdir()
        for name in (*change.copies, *change.removed):
            if (self._models / name).exists():
                (self._models / name).rename(out / name)
        for name, copy in change.copies.items():
            copy.rename(self._models / name)

    def _swap_back(self, change: Change, *, out: Path) -> None:
        """Undo a swap, be it half done."""
        for name, copy in change.copies.items():
            if not copy.exists():
                (self._models / name).rename(copy)
        for path in out.glob("*"):
            touch(path)
            path.rename(self._models / path.name)

    def _tell_versions(self, model: str, *, new: bool) -> None:
        """Say what is served, and whether it is served only now: a new Triton serves what the one before it did."""
        versions = [folder.name for folder in versions_to_serve(self._models / model)]
        self._told.add(model)
        self._status.serving(model, dict.fromkeys(versions, new))
        _logger.info("serving %s version %s", model, ", ".join(versions))

    def _workers(self) -> dict[int, str]:
        return {} if self._run is None else workers(self._run.process.pid)

    def _watch_workers(self, before: Mapping[int, str]) -> None:
        """Be told when a worker ends, but for those that a load has replaced: their end is no death."""
        self._forget_workers()
        now = self._workers()
        self._retiring |= retiring(before, now)
        for pid, model in now.items():
            if pid in self._retiring:
                continue
            try:
                self._worker_ends[os.pidfd_open(pid)] = model
            except ProcessLookupError:
                continue

    def _forget_workers(self) -> None:
        for handle in self._worker_ends:
            os.close(handle)
        self._worker_ends = {}
