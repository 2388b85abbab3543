"""Asking all models for their known answers, again and again, while they are served."""

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import tritonclient.grpc as triton_grpc

from salf_serving.errors import ProbeError, ProbeTimeoutError, StartError, WrongAnswerError
from salf_serving.kept_triton import KeptTriton
from salf_serving.readiness import answered_count, client, probe_model
from salf_serving.snapshot import versions_to_serve
from salf_serving.status import Status

_logger = logging.getLogger(__name__)


class Probing:
    """Probes in a thread of its own, and only reports: to the status, and in `wrong` to who mends models.

    Attributes:
        wrong: model -> wrong probes in a row, and what was wrong with the last. A late answer is among them only if
            the model has answered nobody since the late one before: a model that is merely busy is not mended.
        untrue: models that can be asked, and whose last answer was none of an error, but a wrong one.
        out: models that are taken out of Triton, to be loaded again.
        kept_in: untrue models that Triton did not take out -> wrong probes in a row when it was asked to.
    """

    def __init__(
        self,
        triton: KeptTriton,
        models: Path,
        status: Status,
        *,
        interval_s: float,
        timeout_s: float,
        steady: threading.Lock,
    ) -> None:
        """Probe nothing yet.

        Args:
            triton: that serves the models.
            models: the served copies, which hold the known answers.
            status: is told of every probe.
            interval_s: from one probe of all models to the next.
            timeout_s: how long a model may take, its queue included.
            steady: held while models are probed; whoever changes what is served holds it too.
        """
        self._triton, self._models, self._status, self._steady = triton, models, status, steady
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._answered: dict[tuple[str, str], int | None] = {}
        self.wrong: dict[str, tuple[int, str]] = {}
        self.untrue: set[str] = set()
        self.out: set[str] = set()
        self.kept_in: dict[str, int] = {}

    def fault_of(self, model: str) -> tuple[int, str]:
        """As in `wrong`; of a model that was untrue a moment ago, there may be nothing any more."""
        return self.wrong.get(model, (1, "it answered wrong"))

    def forget(self) -> None:
        """Triton was started again: what was wrong with its models is the past."""
        self.wrong.clear()
        self.untrue.clear()
        self.out.clear()
        self.kept_in.clear()

    def taken_out(self, models: Iterable[str]) -> None:
        """Models that answered wrong answer nobody any more."""
        self.out |= set(models)
        self._forget_untrue(self.out)

    def proved_right(self, models: Iterable[str]) -> None:
        """Models were loaded and answered right; whether they keep doing so counts on."""
        right = set(models)
        self.out -= right
        self._forget_untrue(right)

    def go_on(self, stopping: threading.Event) -> None:
        """Probe until something stops it."""
        while not stopping.wait(self._interval_s):
            while not self._steady.acquire(timeout=self._interval_s):
                self._status.probing_lives()  # what is served changes, and that may take its time
            try:
                self._status.probing_lives()
                if stopping.is_set() or self._triton.died():
                    continue
                self._probe_all()
            except Exception as error:  # noqa: BLE001 - what nobody thought of must not end the probes unnoticed
                sentence = f"models could not be probed: {type(error).__name__}: {error}"
                self._status.set_problem("probing", sentence)
                _logger.warning("%s", sentence)
            else:
                self._status.set_problem("probing", None)
            finally:
                self._steady.release()

    def _probe_all(self) -> None:
        with client(self._triton.server.grpc_address) as connection:
            models = sorted(self._models.iterdir())
            for gone in (self.wrong.keys() | self.untrue) - {model.name for model in models}:
                self.wrong.pop(gone, None)
                self._forget_untrue([gone])
            for model in models:
                for folder in versions_to_serve(model):
                    if not self._is_right(connection, model.name, folder.name):
                        break
                else:
                    self.wrong.pop(model.name, None)
                    self._forget_untrue([model.name])
                    self._status.set_problem(f"model {model.name}", None)
                self._status.probing_lives()

    def _forget_untrue(self, models: Iterable[str]) -> None:
        for model in models:
            self.untrue.discard(model)
            self.kept_in.pop(model, None)

    def _is_right(self, connection: triton_grpc.InferenceServerClient, model: str, version: str) -> bool:
        started_s = time.monotonic()
        try:
            probe_model(connection, self._models, model, version, deadline_s=started_s + self._timeout_s)
        except (ProbeError, StartError) as error:
            late = isinstance(error, ProbeTimeoutError)
            self._status.probe_failures.labels(model, "late" if late else "wrong").inc()
            if not (late and self._has_answered_others(connection, model, version)):
                times, _ = self.wrong.get(model, (0, ""))
                self.wrong[model] = (times + 1, str(error))
            if isinstance(error, WrongAnswerError):
                self.untrue.add(model)
            self._status.set_problem(f"model {model}", str(error))
            return False
        self._status.probe_seconds.labels(model).observe(time.monotonic() - started_s)
        return True

    def _has_answered_others(self, connection: triton_grpc.InferenceServerClient, model: str, version: str) -> bool:
        """Whether a model works, slowly as it may be. Asked after each late probe, and unknown after the first."""
        now = answered_count(connection, model, version)
        before = self._answered.get((model, version))
        self._answered[model, version] = now
        return now is not None and now != before
