"""A small store of pictures."""

import sys
from pathlib import Path

import pytest

from demonstration.paths import ROOT
from salf_batch import Settings

sys.path.insert(0, str(Path(__file__).parent))
from scored_stores import jpeg


@pytest.fixture
def folder(tmp_path):
    """Six demonstration pictures in folders, one broken file, and one that is no picture."""
    root = tmp_path / "photos"
    (root / "b" / "deep").mkdir(parents=True)
    for number, picture in enumerate(sorted((ROOT / "demonstration" / "pictures").glob("*.jpg"))):
        path = (root, root / "b", root / "b" / "deep")[number % 3] / picture.name
        path.write_bytes(picture.read_bytes())
    (root / "broken.jpg").write_bytes(jpeg(1)[:100])
    (root / "notes.txt").write_text("no picture")
    return root


@pytest.fixture
def settings(triton_server):
    """Of a run against the real server, with parts of three rows."""
    return Settings(url=triton_server.grpc_address, shard_size=3, in_flight=4, read_ahead=8)
