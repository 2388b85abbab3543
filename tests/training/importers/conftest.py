"""Published folders, of every layout and of one."""

import sys
from pathlib import Path

import pytest

from salf_training.importers import LAYOUTS

# Test files are imported one by one (importlib mode); what they share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))

from published_folders import write_published


@pytest.fixture(params=LAYOUTS)
def layout(request) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path, layout) -> Path:
    write_published(tmp_path / "published", layout)
    return tmp_path / "published"


@pytest.fixture
def label_free(tmp_path) -> Path:
    write_published(tmp_path / "published", "label-free")
    return tmp_path / "published"
