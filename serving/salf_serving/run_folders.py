"""The folders of one run of `serve`."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from salf_serving.errors import ServingError
from salf_serving.server import state_folder
from salf_serving.stale import own_mark, remove_stale

_logger = logging.getLogger(__name__)


@contextmanager
def run_folders() -> Iterator[tuple[Path, Path]]:
    """A closed folder for this run, and one that nginx's workers may look into, which may be another user's.

    Raises:
        ServingError: they cannot be made.
    """
    runs = state_folder()
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for path in remove_stale(runs):
            _logger.warning("removed %s, left by a run that was killed", path)
        mark = own_mark("-")
        run = Path(tempfile.mkdtemp(prefix=f"run-{mark}-", dir=runs))
        public = Path(tempfile.mkdtemp(prefix=f"salf-run-{mark}-"))
    except OSError as error:
        raise ServingError(
            f"no folder for this run can be made: {error}; set XDG_STATE_HOME or TMPDIR to folders that can be written"
        ) from error
    try:
        public.chmod(0o711)
        yield run, public
    finally:
        shutil.rmtree(public, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
