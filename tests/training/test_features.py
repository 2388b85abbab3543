"""Features on the prompt grid, and features of files."""

import numpy as np
import pytest
import torch
from picture_files import write_noise

from salf_contract import Preparation
from salf_training.backbone import Backbone, BackboneSettings
from salf_training.features import compute_features, features_on_grid
from salf_training.model import SalfModel


def cell_means(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The mean over each cell's area, by making every pixel rows x columns small ones."""
    fine = image.repeat(rows, axis=0).repeat(columns, axis=1)  # [h*rows, w*columns]
    height, width = image.shape
    return fine.reshape(rows, height, columns, width).mean(axis=(1, 3))


@pytest.mark.parametrize("shape", [(14, 14), (8, 8), (10, 16), (7, 13), (9, 7)])
def test_finer_features_are_averaged_over_each_cells_exact_area(shape):
    features = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    got = features_on_grid(features, rows=7, columns=7)
    assert got.shape == (2, 3, 49)
    for n in range(2):
        for c in range(3):
            expected = cell_means(features[n, c].double().numpy(), 7, 7)
            assert got[n, c].reshape(7, 7).numpy() == pytest.approx(expected, abs=1e-6)


def test_features_that_are_on_the_grid_stay_and_cells_go_row_by_row():
    features = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert features_on_grid(features, rows=2, columns=3)[0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_coarser_features_are_interpolated():
    features = torch.rand(1, 2, 4, 3, generator=torch.Generator().manual_seed(1))
    got = features_on_grid(features, rows=7, columns=9)
    expected = torch.nn.functional.interpolate(features, (7, 9), mode="bilinear", align_corners=False)
    assert got.numpy() == pytest.approx(expected.flatten(2).numpy(), abs=1e-6)


def test_features_finer_in_one_direction_alone_are_averaged_in_that_one():
    features = torch.zeros(1, 1, 12, 2)
    features[0, 0, 1] = 6.0  # one of the first three rows
    got = features_on_grid(features, rows=4, columns=4).reshape(4, 4)
    assert got[0].tolist() == pytest.approx([2, 2, 2, 2])
    assert not got[1:].any()


@pytest.mark.parametrize("shape", [(5, 11), (11, 5), (3, 4), (20, 20)])
def test_constant_features_stay_constant_on_any_grid(shape):
    got = features_on_grid(torch.full((1, 1, *shape), 0.3), rows=7, columns=6)
    assert got.numpy() == pytest.approx(0.3, abs=1e-6)


def test_features_of_files_are_those_of_their_pixels_in_order(tmp_path):
    paths = write_noise(tmp_path, count=5, size=(96, 64))
    torch.manual_seed(0)
    model = SalfModel(Backbone(BackboneSettings(name="test_resnet")), channels=1, concepts=1, classes=1).eval()
    told = []
    preparation = Preparation(height=64, width=96)
    features = compute_features(
        model, paths, preparation, batch_size=2, stage="here", on_progress=lambda *now: told.append(now)
    )
    assert told == [("here", 2, 5), ("here", 4, 5), ("here", 5, 5)]
    assert features.shape[2:] == (2, 3)
    alone = compute_features(model, paths[3:4], preparation)
    assert features[3].numpy() == pytest.approx(alone[0].numpy(), abs=1e-5)
    assert not torch.allclose(features[2], features[3])
