"""What Triton without a container needs of the machine and of this Python; each miss is told with its remedy."""

import os
import platform
import sys
import sysconfig
from pathlib import Path

from salf_serving.errors import PlatformError

PYTHONS = ((3, 11), (3, 12))
MIN_GLIBC = (2, 35)


def check_machine() -> None:
    """Check system, processor, C library and interpreter.

    Raises:
        PlatformError: a condition is not met.
    """
    system, processor = platform.system(), platform.machine()
    if system != "Linux" or processor not in ("x86_64", "AMD64"):
        raise PlatformError(
            f"Triton without a container needs x86-64 Linux, but this is {processor} {system}; "
            "serve the same model repository from NVIDIA's Triton container instead"
        )
    glibc = glibc_version()
    if glibc is None or glibc < MIN_GLIBC:
        found = "another C library" if glibc is None else "glibc " + ".".join(map(str, glibc))
        raise PlatformError(
            f"Triton without a container needs glibc >= {'.'.join(map(str, MIN_GLIBC))}, but this system has {found}; "
            "use Debian 12, Ubuntu 22.04, RHEL 10 or newer, or NVIDIA's Triton container"
        )
    python = sys.version_info[:2]
    if python not in PYTHONS or sys.implementation.name != "cpython":
        raise PlatformError(
            f"the server needs CPython 3.11 or 3.12, but this is {sys.implementation.name} "
            f"{python[0]}.{python[1]}; install salf into one of those"
        )


def glibc_version() -> tuple[int, int] | None:
    """Version of the C library, or None where it is not glibc."""
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return None
    name, _, version = text.partition(" ")
    numbers = version.split(".")
    if name != "glibc" or len(numbers) < 2:
        return None
    return int(numbers[0]), int(numbers[1])


def find_libpython() -> Path:
    """This interpreter's shared library, which Triton's Python stub loads.

    Raises:
        PlatformError: the interpreter was built without one.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", f"{sys.base_prefix}/lib64"]
    if sys.base_prefix == "/usr":  # a distribution's Python: its library may lie in the multiarch folder
        folders.append(f"/usr/lib/{sysconfig.get_config_var('MULTIARCH') or 'x86_64-linux-gnu'}")
    for folder in folders:
        if folder and (path := Path(folder) / name).is_file():
            return path
    raise PlatformError(
        f"Python {version} at {sys.base_prefix} has no shared library {name}, which Triton loads; install the package "
        f"libpython{version} (Debian, Ubuntu) or python{version}-libs (Fedora), or build Python with --enable-shared "
        f"(pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {version})"
    )
