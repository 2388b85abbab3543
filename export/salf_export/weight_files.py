"""Files of weights that several models share: each is on the disk once, under a name in every version directory.

Runtimes read external data from the model's own directory only: ONNX Runtime (from 1.24 on) and onnx refuse paths and
symbolic links that lead out of it. So each version directory gets the file under its own name, and the disk holds the
bytes once, because the names are hard links. Where links cannot be kept (a checkout by git, an object store, `cp -r`,
another file system), each directory holds a copy, which works as well and only costs space. Files of weights are named
by their content, so a copy of the wrong one cannot be taken for it.
"""

import hashlib
import os
from collections.abc import Sequence
from filecmp import cmp
from pathlib import Path

_PREFIX, _SUFFIX = "weights_", ".bin"


def weights_file(content: bytes) -> str:
    """The name of a file with this content, without a directory."""
    return f"{_PREFIX}{hashlib.sha256(content).hexdigest()[:16]}{_SUFFIX}"


def link_same_files(folders: Sequence[Path]) -> int:
    """Make files of weights that lie in several folders one file with several names.

    Args:
        folders: directories of versions that nothing reads yet. Files whose file system knows no links stay copies.

    Returns:
        How many bytes are no longer stored twice.
    """
    known: dict[str, Path] = {}
    saved = 0
    for path in (path for folder in folders for path in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))):
        first = known.setdefault(path.name, path)
        if path.samefile(first) or not cmp(first, path, shallow=False):
            continue
        beside = path.with_name(f"{path.name}.link")
        try:
            os.link(first, beside)
        except OSError:  # no links on this file system, or too many of one file: a copy serves as well
            continue
        size_bytes = path.stat().st_size
        beside.replace(path)
        saved += size_bytes
    return saved
