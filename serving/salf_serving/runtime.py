"""The server's own environment: a directory with Triton, numpy 1.26 and ONNX Runtime, apart from everybody else's.

Triton 2.51's Python stub answers with empty tensors under numpy 2, so the environment that starts the server and the
one that Triton's Python models see are two: the first keeps its freedom, the second is pinned.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from salf_serving.backend_files import backend_files, copy_backends, files_hash
from salf_serving.errors import InstallError, RuntimeMissingError
from salf_serving.machine import check_machine, find_libpython
from salf_serving.native import (
    BROUGHT,
    NATIVE_VARIABLE,
    has_backends,
    native_binary,
    native_stub,
    native_triton,
    put_backends,
)
from salf_serving.pip_install import pip_install

RUNTIME_VARIABLE = "SALF_RUNTIME"
STAMP_FILE = "salf-runtime.json"
_INSTALL = "run `salf serve --install`"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Runtime:
    """Where everything lies that a server process needs.

    Attributes:
        root: the directory that `install_runtime` made.
        bin: holds the `python3` by which Triton's Python stub finds its packages.
        site_packages: what the server's Python models import from.
        tritonserver: the server's binary.
        libraries: shared libraries that come with the binary.
        libpython: this interpreter's shared library.
        backends: Triton's backend directory.
    """

    root: Path
    bin: Path
    site_packages: Path
    tritonserver: Path
    libraries: Path
    libpython: Path
    backends: Path

    def moved_to(self, root: Path) -> "Runtime":
        """The same environment, seen under another name of its root."""

        def moved(path: Path) -> Path:
            return root / path.relative_to(self.root) if path.is_relative_to(self.root) else path

        return Runtime(
            root=root,
            bin=moved(self.bin),
            site_packages=moved(self.site_packages),
            tritonserver=moved(self.tritonserver),
            libraries=moved(self.libraries),
            libpython=self.libpython,
            backends=moved(self.backends),
        )


def runtime_pins() -> tuple[str, ...]:
    """The pinned packages of the `runtime` extra of the installed salf, such as `numpy==1.26.4`, sorted.

    Beside a Triton that is there already (`native.py`), only those that our own backends need.

    Raises:
        InstallError: salf's own metadata lists none.
    """
    requirements = [Requirement(line) for line in importlib.metadata.requires("salf") or []]
    pins = sorted(
        f"{requirement.name}{requirement.specifier}"
        for requirement in requirements
        if requirement.marker is not None
        and requirement.marker.evaluate({"extra": "runtime"})
        and not requirement.marker.evaluate({"extra": ""})
        and not (native_triton() is not None and requirement.name in BROUGHT)
    )
    if not pins:
        raise InstallError("the installed salf lists no packages for its runtime; install salf again with pip")
    return tuple(pins)


def pins_hash() -> str:
    """16 hex digits that change with the pins and with this Python's minor version."""
    return hashlib.sha256("\n".join((*runtime_pins(), _PYTHON)).encode()).hexdigest()[:16]


def runtime_root() -> Path:
    """Where the environment belongs: $SALF_RUNTIME, else a folder of the user's cache named after the pins."""
    chosen = os.environ.get(RUNTIME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "salf" / f"runtime-{pins_hash()}"


def install_runtime(*, report: Callable[[str], None] = lambda _line: None) -> Runtime:
    """Build the environment unless the right one is there; several processes may do so at once.

    It is built aside and renamed into place, so that an interrupted run leaves nothing that looks whole.

    Args:
        report: called with each line that pip prints, for progress displays.

    Raises:
        PlatformError: this machine or Python cannot run the server.
        InstallError: pip failed, or the place is taken by something else.
    """
    check_machine()
    find_libpython()
    root = runtime_root()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with _locked(root.parent):
            if _stamp(root) != pins_hash():
                _refuse_foreign(root)
                _build(root, report)
            if (triton := native_triton()) is not None:
                put_backends(triton)
    except OSError as error:
        raise InstallError(
            f"the runtime cannot be installed at {root}: {error}; free the place or set {RUNTIME_VARIABLE} to another"
        ) from error
    return find_runtime()


def find_runtime() -> Runtime:
    """The environment, checked.

    Raises:
        PlatformError: this machine or Python cannot run the server.
        RuntimeMissingError: it is missing, incomplete or of other pins.
    """
    check_machine()
    root = runtime_root()
    stamp = _stamp(root)
    if stamp is None:
        raise RuntimeMissingError(f"Triton is not installed at {root}; {_INSTALL}")
    if stamp != pins_hash():
        raise RuntimeMissingError(f"the runtime at {root} was made for other versions than salf now pins; {_INSTALL}")
    site_packages = _site_packages(root)
    _check_contents(site_packages)
    return Runtime(
        root=root,
        bin=root / "bin",
        site_packages=site_packages,
        tritonserver=_binary(site_packages),
        libraries=site_packages / "nvidia_pytriton.libs" if (triton := native_triton()) is None else triton / "lib",
        libpython=find_libpython(),
        backends=_ensure_backends(root) if triton is None else _native_backends(triton),
    )


def _site_packages(root: Path) -> Path:
    return root / "lib" / f"python{_PYTHON}" / "site-packages"


def _triton(site_packages: Path) -> Path:
    return site_packages / "pytriton" / "tritonserver"


def _binary(site_packages: Path) -> Path:
    triton = native_triton()
    return _triton(site_packages) / "bin" / "tritonserver" if triton is None else native_binary(triton)


def _stub(site_packages: Path) -> Path:
    if (triton := native_triton()) is not None:
        return native_stub(triton)
    return _triton(site_packages) / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"


def _stamp(root: Path) -> str | None:
    try:
        return str(json.loads((root / STAMP_FILE).read_text())["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_contents(site_packages: Path) -> None:
    remedy = f"remove its folder and {_INSTALL}" if native_triton() is None else f"check ${NATIVE_VARIABLE}"
    for path in (_binary(site_packages), _stub(site_packages)):
        if not os.access(path, os.X_OK):
            raise RuntimeMissingError(f"the runtime is incomplete: {path} is missing; {remedy}")
    found = next(iter(importlib.metadata.distributions(name="numpy", path=[str(site_packages)])), None)
    if found is None or Version(found.version) >= Version("2"):
        version = "none" if found is None else found.version
        raise RuntimeMissingError(
            f"the runtime at {site_packages} needs numpy < 2, but has {version}; remove its folder and {_INSTALL}"
        )


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not (root / STAMP_FILE).is_file() and (not root.is_dir() or any(root.iterdir())):
        raise InstallError(
            f"{root} exists and is no runtime of salf; remove it or set {RUNTIME_VARIABLE} to another folder"
        )


def _build(root: Path, report: Callable[[str], None]) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        aside.chmod(0o755)
        # Triton's Python stub reads no PYTHONPATH (it starts isolated), but it looks for `python3` in PATH and takes
        # the virtual environment around it; that also keeps the interpreter's own packages out.
        venv.create(aside, symlinks=True, with_pip=False)
        pip_install(_site_packages(aside), runtime_pins(), report)
        _check_contents(_site_packages(aside))
        if native_triton() is None:
            _ensure_backends(aside)
        stamp = {"hash": pins_hash(), "pins": runtime_pins(), "python": _PYTHON}
        (aside / STAMP_FILE).write_text(json.dumps(stamp, indent=1) + "\n")
        if root.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{root.name}-old-", dir=root.parent))
            root.rename(old / root.name)
            aside.rename(root)
            shutil.rmtree(old)
        else:
            aside.rename(root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _native_backends(triton: Path) -> Path:
    if not has_backends(triton):
        raise RuntimeMissingError(
            f"{triton / 'backends'} lacks the backends of this salf; {_INSTALL} as a user who may write there"
        )
    return triton / "backends"


def _ensure_backends(root: Path) -> Path:
    """Triton's backend directory, named after our sources in it."""
    files = backend_files()
    target = root / f"backends-{files_hash(files)}"
    if target.is_dir():
        return target
    try:
        aside = Path(tempfile.mkdtemp(prefix=".backends-", dir=root))
        try:
            aside.chmod(0o755)
            site_packages = _site_packages(root)
            shutil.copytree(_triton(site_packages) / "backends" / "python", aside / "python")
            shutil.copy2(_stub(site_packages), aside / "python")
            copy_backends(aside, files)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        if not target.is_dir():  # another process may have been faster
            raise RuntimeMissingError(f"{root} cannot be brought up to date: {error}; {_INSTALL}") from error
    return target


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder; the system drops it when the process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
