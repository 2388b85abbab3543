"""Triton gives paths to its Python stubs through a shell, unquoted, and splits lists of paths at colons."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SAFE = re.compile(r"[\w@%+=,./-]+", re.ASCII)


def is_shell_safe(text: str) -> bool:
    """Whether a shell takes the text as one plain word, and a list of paths as one path."""
    return _SAFE.fullmatch(text) is not None


@contextmanager
def shell_safe(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Give paths names that survive a shell: themselves, or links in a temporary folder that is removed at the end."""
    if all(is_shell_safe(str(path)) for path in paths):
        yield paths
        return
    # Not $TMPDIR: that may hold a space as well.
    folder = Path(tempfile.mkdtemp(prefix="salf-", dir="/tmp"))
    try:
        links = tuple(folder / str(number) for number in range(len(paths)))
        for link, path in zip(links, paths, strict=True):
            link.symlink_to(path)
        yield links
    finally:
        shutil.rmtree(folder, ignore_errors=True)
