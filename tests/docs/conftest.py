"""Tests of what the documentation says."""

import json
import re
import sys
from pathlib import Path

import pytest

from demonstration.paths import CHECKPOINT

# Test files are imported one by one (importlib mode); what they share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))

from doc_pages import page_text


@pytest.fixture
def model_is_committed() -> bool:
    """Whether the checkpoint is the one that README speaks of; after `make train` it may be another."""
    said = re.search(r"weights `([0-9a-f]{12})`", page_text("README.md"))
    assert said is not None, "README.md must say which weights its figures are of"
    return json.loads((CHECKPOINT / "card.json").read_text())["weights_sha256"].startswith(said[1])
