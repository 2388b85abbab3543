"""The demonstration model, its backbone's graph and pictures: what the tests of precisions share."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from demonstration.paths import CHECKPOINT
from salf_export.backbone_graph import backbone_graph
from salf_export.pictures import read_calibration
from salf_export.quantising import Quantiser
from salf_training.checkpoint import Checkpoint, load_checkpoint
from salf_training.scenes import write_scenes

# Test files are imported one by one (importlib mode); what they share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def demonstration() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="session")
def backbone(demonstration: Checkpoint) -> onnx.ModelProto:
    return backbone_graph(demonstration.model, demonstration.card.preparation)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "calibration", count=64, first_seed=3_000_000, workers=1)
    write_scenes(folder / "held_out", count=100, first_seed=4_000_000, workers=1)
    return folder


@pytest.fixture(scope="session")
def calibration(scenes: Path, demonstration: Checkpoint) -> NDArray[np.uint8]:
    return read_calibration(scenes / "calibration" / "images", demonstration.card.preparation).pixels


@pytest.fixture(scope="session")
def quantiser(backbone: onnx.ModelProto, calibration: NDArray[np.uint8]) -> Quantiser:
    return Quantiser(backbone, calibration)
