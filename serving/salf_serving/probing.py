"""Asking all models for their known answers, again and again, while they are served."""

import logging
import threading
import time
from pathlib import Path

from tritonclient.utils import InferenceServerException

from salf_serving.errors import ProbeError, ProbeTimeoutError, ServingError, StartError
from salf_serving.kept_triton import KeptTriton
from salf_serving.readiness import client, probe_model
from salf_serving.snapshot import versions_to_serve
from salf_serving.status import Status

_logger = logging.getLogger(__name__)


class Probing:
    """Probes in a thread of its own, and only reports: to the status, and in `wrong` to who mends models.

    Attributes:
        wrong: model -> wrong probes in a row, and what was wrong with the last.
    """

    def __init__(
        self,
        triton: KeptTriton,
        models: Path,
        status: Status,
        *,
        interval_s: float,
        timeout_s: float,
        late_counts: bool,
        steady: threading.Lock,
    ) -> None:
        """Probe nothing yet.

        Args:
            triton: that serves the models.
            models: the served copies, which hold the known answers.
            status: is told of every probe.
            interval_s: from one probe of all models to the next.
            timeout_s: how long a model may take, its queue included.
            late_counts: whether a late answer is a wrong one.
            steady: held while models are probed; whoever changes what is served holds it too.
        """
        self._triton, self._models, self._status, self._steady = triton, models, status, steady
        self._interval_s, self._timeout_s, self._late_counts = interval_s, timeout_s, late_counts
        self.wrong: dict[str, tuple[int, str]] = {}

    def forget(self) -> None:
        """Triton was started again, and all its models answered right."""
        self.wrong.clear()

    def go_on(self, stopping: threading.Event) -> None:
        """Probe until something stops it."""
        while not stopping.wait(self._interval_s):
            with self._steady:
                if stopping.is_set() or self._triton.died():
                    continue
                try:
                    self._probe_all()
                except (ServingError, InferenceServerException, OSError) as error:
                    _logger.warning("models could not be probed: %s", error)

    def _probe_all(self) -> None:
        with client(self._triton.server.grpc_address) as connection:
            for model in sorted(self._models.iterdir()):
                for folder in versions_to_serve(model):
                    started_s = time.monotonic()
                    try:
                        deadline_s = started_s + self._timeout_s
                        probe_model(connection, self._models, model.name, folder.name, deadline_s=deadline_s)
                    except (ProbeError, StartError) as error:
                        late = isinstance(error, ProbeTimeoutError)
                        self._status.probe_failures.labels(model.name, "late" if late else "wrong").inc()
                        if not late or self._late_counts:
                            times, _ = self.wrong.get(model.name, (0, ""))
                            self.wrong[model.name] = (times + 1, str(error))
                        self._status.set_problem(f"model {model.name}", str(error))
                        break
                    self._status.probe_seconds.labels(model.name).observe(time.monotonic() - started_s)
                else:
                    self.wrong.pop(model.name, None)
                    self._status.set_problem(f"model {model.name}", None)
