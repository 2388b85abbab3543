"""`serve`: keeps Triton, its workers and the front alive, and puts into service only what answers right."""

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from salf_serving.errors import RefusedVersionError, ServerDiedError
from salf_serving.front import Front, find_nginx
from salf_serving.kept_front import KeptFront
from salf_serving.kept_triton import KeptTriton
from salf_serving.mending import mend_models
from salf_serving.metrics_page import metrics_page
from salf_serving.nginx_config import FrontFiles
from salf_serving.ports import check_port, free_port
from salf_serving.probing import Probing
from salf_serving.repository import check_repository
from salf_serving.run_folders import run_folders
from salf_serving.server import RunningServer, default_log_file, launched
from salf_serving.settings import LaunchSettings, ServeSettings
from salf_serving.signals import StopRequested, stop_signals
from salf_serving.small_logs import keep_small
from salf_serving.status import Status, status_endpoint
from salf_serving.watch import Change, RepositoryWatch

_TICK_S = 0.1
_logger = logging.getLogger(__name__)


def serve(settings: ServeSettings, *, on_ready: Callable[[RunningServer], None] = lambda _server: None) -> int:
    """Serve until SIGINT or SIGTERM; call it from the main thread.

    Args:
        settings: what to serve and how.
        on_ready: called once when every model has answered its probe and the front is open.

    Returns:
        Exit status for the process: 0 after a clean stop, 1 if Triton had to be killed.

    Raises:
        ServerDiedError: Triton or the front dies again and again.
        ServingError: the server could not be started.
    """
    supervisor = None
    check_repository(settings.launch.repository.expanduser(), copied=True)
    try:
        with stop_signals(), run_folders() as (run, public):
            supervisor = _Supervisor(settings, run, public)
            with supervisor.running():
                on_ready(supervisor.server())
                supervisor.watch_over()
    except StopRequested as stop:
        status = 0 if supervisor is None else supervisor.exit_status
        if status != 0:
            _logger.warning("Triton ended with status %s after signal %s", status, stop.number)
        return 0 if status == 0 else 1
    raise AssertionError("only a signal or an error ends the watch")


class _Supervisor:
    """One run of `serve`. The main thread looks after Triton, which may take minutes, and another after the front.

    Two more probe and watch the repository, and only report.
    """

    def __init__(self, settings: ServeSettings, run: Path, public: Path) -> None:
        self._settings = settings
        self._live = run / "models"
        self._live.mkdir()
        self._run, self._public = run, public
        # Twice, because what fails to load is put back; a minute for all the rest.
        self._status = Status(stuck_after_s=60.0 + 2 * settings.launch.startup_timeout_s)
        port = settings.launch.grpc_port
        self._control_key = secrets.token_hex(32) if settings.front is not None else None
        self._launch = replace(
            settings.launch,
            repository=self._live,
            log_file=(settings.launch.log_file or default_log_file(port)).expanduser().absolute(),
            grpc_port=port if settings.front is None else free_port(),
            metrics_port=self._metrics_port(settings),
            control_key=self._control_key,
        )
        self._triton = KeptTriton(self._launch, self._status)
        self._front: KeptFront | None = None
        self._front_thread: threading.Thread | None = None
        self._front_end: ServerDiedError | None = None
        self._watch = RepositoryWatch(
            settings.launch.repository.expanduser().absolute(),
            self._live,
            try_models=self._try_models,
            on_refused=self._say_refused,
        )
        self._told_ready: bool | None = None
        self._stopping = threading.Event()
        self._changes: queue.Queue[Change] = queue.Queue(maxsize=1)
        #: Held while models are probed and while what is served changes: no probe sees half a change.
        self._steady = threading.Lock()
        self._probing = Probing(
            self._triton,
            self._live,
            self._status,
            interval_s=settings.probe_interval_s,
            timeout_s=settings.probe_timeout_s,
            steady=self._steady,
        )
        self.exit_status = 0

    @staticmethod
    def _metrics_port(settings: ServeSettings) -> int | None:
        """Triton's, for the operator or for the status page, which hands it on."""
        wanted = settings.launch.metrics_port
        return free_port() if wanted is None and settings.status_port is not None else wanted

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start everything; when the block ends, drain and stop it."""
        settings = self._settings
        with ExitStack() as stack:
            if settings.front is not None:
                check_port(settings.launch.grpc_port, option="--grpc-port", address=settings.front.address)
                self._front = self._make_front()
                self._front.prepare()  # before models load, which may take minutes
            if settings.status_port is not None:
                stack.enter_context(
                    status_endpoint(
                        self._status,
                        address=settings.status_address,
                        port=settings.status_port,
                        metrics=lambda timeout_s: metrics_page(
                            self._status, self._launch.metrics_port, timeout_s=timeout_s
                        ),
                    )
                )
            self._watch.first_copy()
            stack.callback(self._stop)
            self._triton.start()
            if self._front is not None:
                self._front.start()
            self._say_ready()
            for name, work in (("probing", self._probing.go_on), ("watching", self._look_again_and_again)):
                threading.Thread(target=work, args=(self._stopping,), name=name, daemon=True).start()
            if self._front is not None:
                self._front_thread = threading.Thread(
                    target=self._look_after_front, args=(self._front,), name="front", daemon=True
                )
                self._front_thread.start()
            yield

    def server(self) -> RunningServer:
        """What clients see: the front's address if there is a front."""
        server, settings = self._triton.server, self._settings
        if settings.front is not None:
            server = replace(server, grpc_address=f"{settings.front.address}:{settings.launch.grpc_port}")
        if settings.status_port is not None:
            server = replace(server, metrics_address=f"{settings.status_address}:{settings.status_port}")
        return server

    def watch_over(self) -> None:
        """Look after everything until a signal or an error ends it.

        Raises:
            ServerDiedError: Triton or the front dies again and again.
        """
        while True:
            self._status.beat()
            if self._triton.died():
                self._say_ready(because=("triton", "Triton died"))
                with self._steady:
                    self._triton.start_again("it died")
                    self._probing.forget()
            if self._front_end is not None:
                raise self._front_end
            mend_models(
                self._triton,
                self._probing,
                steady=self._steady,
                say_unready=lambda model, reason: self._say_ready(because=(f"model {model}", reason)),
            )
            self._take_change()
            self._say_ready()
            if self._launch.log_file is not None:
                keep_small(self._launch.log_file)
            time.sleep(_TICK_S)

    def _make_front(self) -> KeptFront:
        assert self._settings.front is not None
        assert self._control_key is not None
        port = self._settings.launch.grpc_port
        front = Front(
            nginx=find_nginx(),
            settings=self._settings.front,
            files=FrontFiles(
                folder=self._run,
                ready=self._public / "ready",
                access_log=self._log_file(f"front-{port}.log"),
                error_log=self._log_file(f"front-{port}-errors.log"),
            ),
            port=port,
            triton_port=self._launch.grpc_port,
            control_key=self._control_key,
            traced_share=None if self._launch.traces is None else self._launch.traces.share,
        )
        return KeptFront(front, self._status, stop_timeout_s=self._launch.stop_timeout_s, traces=self._launch.traces)

    def _log_file(self, name: str) -> Path:
        """Beside Triton's log."""
        assert self._launch.log_file is not None
        return self._launch.log_file.with_name(name)

    def _stop(self) -> None:
        self._stopping.set()
        self._status.set_problem("stop", "the server is stopping")
        self._say_ready()
        if self._front is not None:
            if self._front_thread is not None:
                self._front_thread.join()
            self._front.drain_and_stop()
        self.exit_status = self._triton.stop()

    def _say_ready(self, because: tuple[str, str] | None = None) -> None:
        if because is not None:
            self._status.set_problem(*because)
        else:
            self._status.set_problem("start", None)
        problems = self._status.problems
        if self._front is not None:
            self._front.set_flags(ready=not problems, right=not self._probing.untrue, out=bool(self._probing.out))
        if self._told_ready != (not problems) and not self._stopping.is_set():
            self._told_ready = not problems
            if problems:
                _logger.warning("not ready: %s", "; ".join(f"{part}: {said}" for part, said in problems.items()))
            else:
                _logger.info("ready")

    def _look_after_front(self, front: KeptFront) -> None:
        """Tokens are taken away, and a dead nginx is replaced, while models load."""
        while not self._stopping.wait(_TICK_S):
            try:
                front.look_after()
            except ServerDiedError as error:
                self._front_end = error
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, nginx goes on, and so must this
                _logger.warning("the front could not be looked after: %s: %s", type(error).__name__, error)
                self._stopping.wait(1.0)

    def _take_change(self) -> None:
        try:
            change = self._changes.get_nowait()
        except queue.Empty:
            return
        with self._steady:
            try:
                self._triton.apply(change)
                self._probing.proved_right(change.copies)
                self._watch.put_into_service(change)
            except RefusedVersionError as error:
                self._watch.refuse(change.family, change.signatures.items(), error)
            finally:
                self._changes.task_done()

    def _look_again_and_again(self, stopping: threading.Event) -> None:
        while not stopping.wait(self._settings.watch_interval_s):
            try:
                change = self._watch.look()
            except Exception as error:  # noqa: BLE001 - one odd repository must not end the watch unnoticed
                _logger.warning("the repository could not be looked at: %s: %s", type(error).__name__, error)
                continue
            if change is not None:
                self._changes.put(change)
                self._changes.join()

    def _try_models(self, models: Path) -> None:
        trial = LaunchSettings(
            repository=models,
            grpc_port=free_port(),
            log_file=self._log_file(f"trial-{self._settings.launch.grpc_port}.log"),
            startup_timeout_s=self._launch.startup_timeout_s,
            threads=1,
            yields=True,
        )
        with launched(trial):
            pass

    def _say_refused(self, family: str, error: RefusedVersionError) -> None:
        self._status.refused.labels(family, error.reason).inc()
        _logger.error("%s is refused, what was served before stays: %s", family, error)
