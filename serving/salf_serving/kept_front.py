"""A front that is started again when it dies, and reads tokens and certificates again when they change."""

import logging
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from salf_serving.access_log import AccessLog
from salf_serving.errors import FrontError
from salf_serving.front import Front, drain_front, front_running, reload_front
from salf_serving.process import GuardedProcess
from salf_serving.restarts import Restarts
from salf_serving.status import Status
from salf_serving.tracing import TraceSettings

if TYPE_CHECKING:
    from salf_serving.front_spans import FrontSpans

_LOOK_S = 1.0
_logger = logging.getLogger(__name__)


class KeptFront:
    """One nginx; used by one thread at a time."""

    def __init__(
        self, front: Front, status: Status, *, stop_timeout_s: float, traces: TraceSettings | None = None
    ) -> None:
        self._front, self._status, self._stop_timeout_s = front, status, stop_timeout_s
        self._restarts = Restarts("the front (nginx)")
        self._stack = ExitStack()
        self._process: GuardedProcess | None = None
        self._spans = None if traces is None else _front_spans(traces.url, status)
        self._log = (
            AccessLog(front.files.access_log, status)
            if self._spans is None
            else AccessLog(front.files.access_log, status, on_line=self._spans.take)
        )
        self._inputs: tuple[tuple[int, int], ...] = ()
        self._looked_s = 0.0

    def start(self) -> None:
        """Write the configuration and start nginx.

        Raises:
            FrontError: it cannot run.
        """
        self._inputs = self._stamps()
        self._front.write()
        self._run()

    def look_after(self) -> None:
        """Start nginx again if it died; once a second, look for new tokens and certificates and count requests.

        Raises:
            ServerDiedError: nginx died too often.
        """
        if self._process is None or self._process.ended():
            self._start_again()
        if time.monotonic() - self._looked_s >= _LOOK_S:
            self._looked_s = time.monotonic()
            self._log.count()
            if self._log.needs_rotation():
                self._log.rotate()
                self._reload()
            if (stamps := self._stamps()) != self._inputs:
                self._inputs = stamps
                self._read_again()

    def drain_and_stop(self) -> None:
        """Take no new requests, answer those under way, end."""
        if self._process is not None:
            drain_front(self._process, timeout_s=self._stop_timeout_s)
            self._log.count()
        self._stack.close()
        if self._spans is not None:
            self._spans.close()

    def set_ready(self, *, ready: bool) -> None:
        """Let questions for readiness through to Triton, or refuse them."""
        flag = self._front.files.ready
        if ready:
            flag.touch(mode=0o644)
        else:
            flag.unlink(missing_ok=True)

    def _run(self) -> None:
        self._process = self._stack.enter_context(front_running(self._front, stop_timeout_s=self._stop_timeout_s))
        self._status.set_problem("front", None)

    def _start_again(self) -> None:
        status = None if self._process is None else self._process.guard.returncode
        reason = f"nginx ended with status {status}; its log is {self._front.files.error_log}"
        self._status.set_problem("front", reason)
        pause_s = self._restarts.pause_s(reason)
        _logger.warning("the front is started again: %s", reason)
        self._stack.close()
        self._process = None
        time.sleep(pause_s)
        self._status.restarts.labels("front").inc()
        try:
            self._run()  # with what was written last: the operator's files may be wrong by now
        except FrontError as error:
            _logger.error("the front could not be started again: %s", error)  # noqa: TRY400 - the sentence says it all
            self._status.set_problem("front", str(error))

    def _read_again(self) -> None:
        try:
            self._front.write()
        except FrontError as error:
            self._status.front_reloads.labels("refused").inc()
            _logger.warning("the front goes on with what it has: %s", error)
            return
        self._reload()
        self._status.front_reloads.labels("done").inc()
        _logger.info("the front has read tokens and certificates again")

    def _reload(self) -> None:
        if self._process is not None:
            reload_front(self._process)

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        return tuple(_stamp(path) for path in self._front.inputs())


def _front_spans(url: str, status: Status) -> "FrontSpans":
    """What makes spans; its libraries are loaded by whoever wants traces only."""
    try:
        from salf_serving.front_spans import FrontSpans
    except ImportError as error:
        raise FrontError("traces need OpenTelemetry's exporter; install it with: pip install 'salf[serve]'") from error
    return FrontSpans(url, status)


def _stamp(path: Path) -> tuple[int, int]:
    with suppress(OSError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_ino
    return 0, 0
