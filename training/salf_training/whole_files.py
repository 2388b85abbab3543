"""Files that are there whole or not at all, whenever a run is killed."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write the content aside and rename it, so that the path is the old file or the new one, never half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
