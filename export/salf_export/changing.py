"""Change a model repository so that Triton can load it at every moment, and so that a change is whole or undone.

Files are written aside, on the same file system, and renamed into place. One process changes a repository at a time.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from salf_contract import may_be_model
from salf_export.errors import RepositoryError

_ASIDE = "salf-"


class Change:
    """Renames in a repository that are taken back if one of them fails.

    Args:
        aside: folder on the repository's file system; what is replaced is kept there until the end.
    """

    def __init__(self, aside: Path) -> None:
        self.aside = aside
        self._undo: list[tuple[Path, Path | None]] = []  # what appeared or went, and what was there before
        self._kept = 0

    def put(self, source: Path, target: Path) -> None:
        """Rename a file or folder into place; a file that is there is replaced, a folder with files never is."""
        before = None
        if target.is_file():
            before = self._place()
            shutil.copy2(target, before)  # now: later there may be no space
            self._undo.append((target, before))
            source.replace(target)
        else:
            self._undo.append((target, None))
            try:
                source.rename(target)
            except OSError:
                self._undo.pop()  # what is there now is not ours to take away
                raise
        sync_folder(target.parent)

    def take(self, target: Path) -> None:
        """Take a file or folder away."""
        before = self._place()
        self._undo.append((target, before))
        target.rename(before)
        sync_folder(target.parent)

    def undo(self) -> None:
        """Bring back what was there before."""
        for target, before in reversed(self._undo):
            with suppress(OSError):  # whatever else can be brought back is
                if before is None:
                    target.rename(self._place())
                else:
                    before.replace(target)

    def _place(self) -> Path:
        self._kept += 1
        return self.aside / f"before-{self._kept}"


@contextmanager
def changing(repository: Path, *, what: str) -> Iterator[Change]:
    """Change a repository: alone, with a folder aside, undone if the block fails.

    Leftovers of processes that died are removed.

    Args:
        repository: an existing folder.
        what: begins the message of an error, such as "version 3 of scenes could not be written".

    Raises:
        RepositoryError: no space, no permission, or a file system without locks; the repository is as it was before.
    """
    try:
        with _locked(repository), _aside(repository) as aside:
            change = Change(aside)
            try:
                yield change
            except BaseException:
                change.undo()
                raise
    except OSError as error:
        full = (
            f" (free some space, old versions with: salf prune {repository} NAME --keep 1, and run it again)"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else ""
        )
        raise RepositoryError(f"{what} in {repository}: {error}{full}; the repository is as it was before") from error


def sync_tree(folder: Path) -> None:
    """Bring files to the disk before they are renamed: after a power cut a version is whole or absent."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk."""
    with _opened(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """Wait until no other process changes the repository. The lock ends with its process, however that ends."""
    with _opened(repository) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _aside(repository: Path) -> Iterator[Path]:
    """A folder on the repository's file system that Triton does not take for a model."""
    parent, prefix = _aside_place(repository.resolve())
    _remove_leftovers(parent, prefix)
    aside = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, aside, ignore_errors=True)
        # Held as long as this process lives: how others know that the folder is in use.
        fcntl.flock(stack.enter_context(_opened(aside)), fcntl.LOCK_EX)
        yield aside


def _aside_place(repository: Path) -> tuple[Path, str]:
    """Beside the repository, else in a model's folder: Triton takes every folder of the repository for a model."""
    prefix = f".{repository.name}.{_ASIDE}"
    beside = repository.parent
    if os.access(beside, os.W_OK) and beside.stat().st_dev == repository.stat().st_dev:
        return beside, prefix
    folders = (path for path in sorted(repository.iterdir()) if may_be_model(path) and path.is_dir())
    return next(folders, repository), prefix


def _remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove aside-folders whose process has died; that of a living one is locked."""
    ours = re.compile(re.escape(prefix) + r"[a-z0-9_]{8}")  # as mkdtemp names them
    for path in parent.iterdir():
        if not ours.fullmatch(path.name) or not path.is_dir() or path.is_symlink():
            continue
        with _opened(path) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
