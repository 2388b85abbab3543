"""A front that is started again when it dies, and reads tokens and certificates again when they change."""

import logging
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from salf_serving.access_log import AccessLog
from salf_serving.errors import FrontError, FrontHangsError
from salf_serving.front import Front, drain_front, front_running, reload_front
from salf_serving.front_check import ask_front
from salf_serving.process import GuardedProcess
from salf_serving.restarts import Restarts
from salf_serving.small_logs import keep_small
from salf_serving.status import Status
from salf_serving.tracing import TraceSettings

if TYPE_CHECKING:
    from salf_serving.front_spans import FrontSpans

_LOOK_S = 1.0
#: nginx, busy with handshakes, may take so long to say its first words.
_ANSWER_S = 5.0
#: One that has said nothing for so long when it is asked again, and does not answer then either, is killed. A single
#: question is not enough: this process itself may have been frozen meanwhile. Fewer than MOST_DEATHS of this fit into
#: restarts.WINDOW_S: an nginx that hangs now and then is started again for ever.
_HANGS_AFTER_S = 25.0
_logger = logging.getLogger(__name__)


class KeptFront:
    """One nginx; but for its flags, used by one thread at a time."""

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
        self._inputs: tuple[tuple[int, int, int], ...] = ()
        self._looked_s = 0.0
        self._silent_since_s: float | None = None
        self._flags_failed = False

    def prepare(self) -> None:
        """Write the configuration and let nginx check it.

        Raises:
            FrontError: tokens or certificates cannot be used, or logs not be written.
        """
        try:
            self._front.files.access_log.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FrontError(f"the front's log {self._front.files.access_log} cannot be written: {error}") from error
        self._inputs = self._stamps()
        self._front.write()

    def start(self) -> None:
        """Start nginx, and ask it once. `prepare` comes before.

        Raises:
            FrontError: it cannot run.
        """
        self._run()
        self._ask()

    def look_after(self) -> None:
        """Start nginx again if it died; once a second look for new tokens and certificates, count requests, and ask it.

        If it hangs, it is killed after a while.

        Raises:
            ServerDiedError: nginx died too often.
        """
        if self._process is None or self._process.ended():
            self._start_again()
        if time.monotonic() - self._looked_s >= _LOOK_S:
            self._looked_s = time.monotonic()
            self._log.count()
            if self._log.needs_rotation():
                self._rotate()
            keep_small(self._front.files.error_log)
            if (stamps := self._stamps()) != self._inputs:
                self._inputs = stamps
                self._read_again()
            self._ask()

    def drain_and_stop(self) -> None:
        """Take no new requests, answer those under way, end."""
        if self._process is not None:
            drain_front(self._process, timeout_s=self._stop_timeout_s)
            self._log.count()
        self._stack.close()
        if self._spans is not None:
            self._spans.close()

    def set_flags(self, *, ready: bool, right: bool, out: bool = False) -> None:
        """Let requests through to Triton, or refuse them; may be called from another thread.

        Args:
            ready: whether questions for readiness pass.
            right: whether inferences pass; False while a model's answers are known to be wrong.
            out: whether a model is taken out of Triton; who asks it is told to come later, and not that there is none.
        """
        files = self._front.files
        try:
            for flag, there in ((files.out, out), (files.right, right), (files.ready, ready)):
                if there:
                    flag.touch(mode=0o644)
                else:
                    flag.unlink(missing_ok=True)
        except OSError as error:
            if not self._flags_failed:
                _logger.error("the front cannot be told what to let through: %s", error)  # noqa: TRY400
            self._flags_failed = True
        else:
            self._flags_failed = False

    def _run(self) -> None:
        self._silent_since_s = None
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
            self._run()  # with the copies that were checked last: the operator's files may be wrong by now
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

    def _rotate(self) -> None:
        try:
            self._log.rotate()
        except OSError as error:
            _logger.warning("the front's log could not be set aside: %s", error)
            return
        self._reload()

    def _ask(self) -> None:
        if self._process is None:
            return
        front, asked_s = self._front, time.monotonic()
        try:
            expires = ask_front(
                front.settings.address, front.port, certificate=front.served_certificate, timeout_s=_ANSWER_S
            )
        except FrontError as error:
            self._status.set_problem("front", str(error))
            # One that closes connections lives: it may have as many as it takes.
            silent = isinstance(error, FrontHangsError)
            self._silent_since_s = (self._silent_since_s or asked_s) if silent else None
            if self._silent_since_s is not None and asked_s - self._silent_since_s >= _HANGS_AFTER_S:
                _logger.warning("nginx has said nothing for %.0f s and is killed", _HANGS_AFTER_S)
                self._process.kill()
            return
        self._silent_since_s = None
        self._status.set_problem("front", None)
        if expires is not None:
            self._status.certificate_expires(expires)

    def _reload(self) -> None:
        if self._process is not None:
            reload_front(self._process)

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(_stamp(path) for path in self._front.inputs())


def _front_spans(url: str, status: Status) -> "FrontSpans":
    """What makes spans; its libraries are loaded by whoever wants traces only."""
    try:
        from salf_serving.front_spans import FrontSpans
    except ImportError as error:
        raise FrontError("traces need OpenTelemetry's exporter; install it with: pip install 'salf[serve]'") from error
    return FrontSpans(url, status)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes with a file's content, and with its owner and mode, for which it may have been refused."""
    with suppress(OSError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
    return 0, 0, 0
