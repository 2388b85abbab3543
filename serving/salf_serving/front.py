"""nginx as a process: found, given its configuration, started, reloaded, drained."""

import grp
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from salf_serving.errors import FrontError
from salf_serving.front_settings import FrontSettings
from salf_serving.nginx_config import FrontFiles, nginx_config
from salf_serving.nginx_connections import MODULES_VARIABLE, find_stream_module
from salf_serving.process import GuardedProcess, running
from salf_serving.stale import own_mark
from salf_serving.tokens import read_tokens, token_map

#: Names another nginx than the one in PATH.
NGINX_VARIABLE = "SALF_NGINX"
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")
_WORKER_USERS = ("www-data", "nginx", "nobody")
_TEST_S = 30.0
#: The operator's files that nginx reads, as settings call them -> name of the copy that it reads.
_COPIES = {"certificate": "server.pem", "certificate_key": "server.key", "client_ca": "clients.pem"}


def find_nginx() -> Path:
    """The nginx of this machine.

    Raises:
        FrontError: there is none.
    """
    named = os.environ.get(NGINX_VARIABLE)
    found = shutil.which(named or "nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_FOLDERS]))
    if found is None:
        raise FrontError(
            f"{named or 'nginx'} is missing; install it with `apt-get install --no-install-recommends nginx`, "
            f"or serve without --front"
        )
    return Path(found)


@dataclass(frozen=True, kw_only=True)
class Front:
    """What is needed to run nginx in front of one Triton.

    Attributes:
        nginx: the program.
        settings: what is let through.
        files: where its files lie.
        port: that clients connect to.
        triton_port: Triton's gRPC port on the loopback.
        control_key: opens Triton's repository index.
        traced_share: of the requests without a caller's trace, those that begin one; None: nothing is traced.
    """

    nginx: Path
    settings: FrontSettings
    files: FrontFiles
    port: int
    triton_port: int
    control_key: str
    traced_share: float | None = None

    def inputs(self) -> tuple[Path, ...]:
        """Files of the operator's that are read again when they change."""
        given = (
            self.settings.tokens,
            self.settings.certificate,
            self.settings.certificate_key,
            self.settings.client_ca,
        )
        return tuple(path for path in given if path is not None)

    def write(self) -> None:
        """Write the configuration and let nginx check it; a wrong one replaces nothing.

        It names copies of the operator's files, so that nginx can always be started with what was checked last.

        Raises:
            FrontError: tokens or certificates cannot be used, nginx refuses the configuration, or the disk is full.
        """
        tokens = "" if self.settings.tokens is None else token_map(read_tokens(self.settings.tokens))
        copied = {name: path for field, name in _COPIES.items() if (path := getattr(self.settings, field)) is not None}
        contents = {name: _input(path) for name, path in copied.items()} | {self.files.token_map.name: tokens.encode()}
        if b"ENCRYPTED" in contents.get(_COPIES["certificate_key"], b""):
            raise FrontError(
                f"{self.settings.certificate_key} asks for a pass phrase, which nobody is there to type when a server "
                "starts; take it off with `openssl pkey -in OLD -out NEW`"
            )
        module = self._stream_module()
        try:
            with tempfile.TemporaryDirectory(prefix="check-", dir=self.files.folder) as folder:
                trial = replace(self.files, folder=Path(folder))
                for name, content in contents.items():
                    _write_closed(trial.folder / name, content)
                _write_closed(trial.config, self._config(trial, module).encode())
                self._check(trial.config, {f"{trial.folder}/{name}": f"{path}" for name, path in copied.items()})
                _write_closed(trial.config, self._config(self.files, module).encode())
                for name in (*contents, trial.config.name):
                    (trial.folder / name).replace(self.files.folder / name)
        except OSError as error:
            raise FrontError(f"the front's configuration cannot be written: {error}") from error

    @property
    def served_certificate(self) -> Path | None:
        """The copy of the certificate that nginx shows; None without TLS."""
        return None if self.settings.certificate is None else self.files.folder / _COPIES["certificate"]

    def _config(self, files: FrontFiles, stream_module: Path | None) -> str:
        copies = {
            field: files.folder / name for field, name in _COPIES.items() if getattr(self.settings, field) is not None
        }
        return nginx_config(
            self.settings.model_copy(update=copies),
            files,
            port=self.port,
            triton_port=self.triton_port,
            control_key=self.control_key,
            worker_user=_worker_user(),
            traced_share=self.traced_share,
            stream_module=stream_module,
        )

    def _stream_module(self) -> Path | None:
        if self.settings.connections_per_client is None:
            return None
        return find_stream_module(self.nginx, os.environ.get(MODULES_VARIABLE))

    def command(self) -> list[str]:
        """Nginx's command line; it holds no secret."""
        return [str(self.nginx), "-c", str(self.files.config), "-e", str(self.files.error_log)]

    def _check(self, config: Path, names: Mapping[str, str]) -> None:
        """Let nginx check; in what it says, `names` (copy -> the operator's file) are put back."""
        try:
            done = subprocess.run(
                [str(self.nginx), "-t", "-q", "-c", str(config), "-e", "stderr"],
                capture_output=True, text=True, errors="replace", timeout=_TEST_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FrontError(f"{self.nginx} cannot check its configuration: {error}") from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "[emerg]" in line] or done.stderr.splitlines()
            said = lines[0].partition("[emerg] ")[2] or lines[0] if lines else f"status {done.returncode}"
            said = said.partition(": ")[2] or said
            for copy, original in names.items():
                said = said.replace(copy, original)
            raise FrontError(f"nginx refuses its configuration: {said}")


@contextmanager
def front_running(front: Front, *, stop_timeout_s: float) -> Iterator[GuardedProcess]:
    """Run nginx while a block runs. `front.write()` comes before.

    Raises:
        FrontError: it stopped at once.
    """
    front.files.socket.unlink(missing_ok=True)  # a killed nginx leaves it behind, and the next could not listen
    with running(
        front.command(),
        os.environ,
        name="nginx",
        log_file=front.files.error_log,
        shared_memory_prefix=f"salf_{own_mark('_')}_front",
        stop_timeout_s=stop_timeout_s,
    ) as process:
        deadline_s = time.monotonic() + _TEST_S
        while _read(front.files.pid).strip() != str(process.pid):
            if process.ended() or time.monotonic() > deadline_s:
                raise FrontError(f"nginx did not start: {_last_line(front.files.error_log)}")
            time.sleep(0.02)
        try:
            yield process
        finally:
            front.files.pid.unlink(missing_ok=True)


def reload_front(process: GuardedProcess) -> None:
    """Let nginx read its configuration, tokens and certificates again; requests under way end as they began."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGHUP)


def drain_front(process: GuardedProcess, *, timeout_s: float) -> None:
    """Take no new requests, and wait until those under way are answered."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGQUIT)
    deadline_s = time.monotonic() + timeout_s
    while not process.ended() and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _worker_user() -> str | None:
    """Whom nginx's workers run as when root starts it."""
    if os.geteuid() != 0:
        return None
    for name in _WORKER_USERS:
        with suppress(KeyError):
            return f"{name} {grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name}"
    raise FrontError(f"nginx's workers must not be root, and this system has no user {' or '.join(_WORKER_USERS)}")


def _input(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FrontError(f"the front needs {path}, which cannot be read: {error.strerror}") from error


def _write_closed(path: Path, content: bytes) -> None:
    """Write a file that nobody else may read, not even for a moment."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _last_line(path: Path) -> str:
    lines = _read(path).splitlines()
    return lines[-1].partition("] ")[2] or lines[-1] if lines else f"see {path}"
