"""Fixtures of the training room's tests."""

import sys
from pathlib import Path

import pytest

from salf_training.scenes import Scene, draw_scene

# Test files are imported one by one (importlib mode); what they share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """The scenes of seeds 0 to 239, drawn once for all tests; nobody changes them."""
    return [draw_scene(seed) for seed in range(240)]


@pytest.fixture(params=["newton", "gradients"])
def either_method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems of these tests are small, so gradients solve them unless Newton is told to."""
    from salf_training import elastic_net  # torch, which most of these tests need and drawing does not

    if request.param == "newton":
        monkeypatch.setattr(elastic_net, "LARGE", 0)
