"""Change a repository once for each thing that the process asks of the file system, killed or refused at that one.

Run as a script: interrupted_change.py kill|full publish|rollback|retention STARTING_REPOSITORY FOLDER. FOLDER/<step>
gets the repository that is left. Audit events see every opened, linked, renamed and removed file without the code's
help.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from model_family import models

from salf_export.errors import RepositoryError
from salf_export.publishing import drop_old_versions, publish, roll_back

_REMOVING = {"os.rmdir", "os.remove", "shutil.rmtree"}
_CHANGING = {"os.rename", "os.mkdir", "os.link", "shutil.copyfile", *_REMOVING}
STILL_RUNNING = 77


def interrupt(step: int, *, how: str, within: Path) -> Callable[[], bool]:
    """Arrange that the process ends, or has no space, at the step-th change below a folder.

    Returns:
        Whether there has been such a change: removing goes on without space.
    """
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        changes = event in _CHANGING or (event == "open" and isinstance(arguments[1], str) and "w" in arguments[1])
        if not changes or str(within) not in str(arguments[0]):
            return
        seen += 1
        if seen == step:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            # Removing needs no space.
            if event not in _REMOVING:
                raise OSError(28, "No space left on device")

    sys.addaudithook(hook)
    return lambda: seen >= step


def attempt(step: int, how: str, change: Callable[[Path], object], start: Path, folder: Path) -> int:
    repository = folder / str(step) / "repository"
    shutil.copytree(start, repository)
    child = os.fork()
    if child == 0:
        reached = interrupt(step, how=how, within=folder / str(step))
        try:
            change(repository)
        except RepositoryError as error:
            (folder / str(step) / "error").write_text(str(error))
            os._exit(1)
        os._exit(0 if reached() else STILL_RUNNING)
    return os.waitpid(child, 0)[1]


def main() -> None:
    how, what, start, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    prepared = models(2)
    changes: dict[str, Callable[[Path], object]] = {
        "publish": lambda repository: publish(repository, 2, prepared),
        "rollback": lambda repository: roll_back(repository, "boats", to=1),
        "retention": lambda repository: drop_old_versions(repository, "boats", keep=1),
    }
    os.fsync = lambda _descriptor: None  # nobody cuts the power, and waiting for the disk takes most of the time
    step, status = 0, -1
    while not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == STILL_RUNNING):
        step += 1
        status = attempt(step, how, changes[what], start, folder)
    shutil.rmtree(folder / str(step))  # it went through: nothing was left to interrupt
    (folder / "steps").write_text(str(step - 1))


if __name__ == "__main__":
    main()
