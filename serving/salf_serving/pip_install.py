"""Installing the server's packages with pip, into a folder of their own."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from salf_serving.errors import InstallError


def pip_install(target: Path, pins: Sequence[str], report: Callable[[str], None]) -> None:
    """Install exactly the pinned packages, without what they depend on.

    Args:
        target: the folder of packages.
        pins: such as `numpy==1.26.4`.
        report: called with each line that pip prints.

    Raises:
        InstallError: there is no pip, or it failed.
    """
    if importlib.util.find_spec("pip") is None:
        raise InstallError(f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip` and try again")
    # --target alone decides the place: a user's own pip settings for places must not reach in.
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PIP_TARGET", "PIP_USER", "PIP_PREFIX")
    }
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps",
               "--only-binary=:all:", "--target", str(target), *pins]  # fmt: skip
    last_error = "no message"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            report(line.rstrip())
            if line.startswith("ERROR:"):
                last_error = line.removeprefix("ERROR:").strip()
    if pip.returncode != 0:
        raise InstallError(
            f"pip could not install the server's packages: {last_error}; check the network or the package index "
            f"that pip is set up with and try again"
        )
