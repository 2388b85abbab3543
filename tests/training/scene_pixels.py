"""What the pixels of drawn scenes belong to."""

import numpy as np
from numpy.typing import NDArray

from salf_training.scenes import SIDE, Scene
from salf_training.scenes.canvas import FACTOR
from salf_training.scenes.compose import Arrangement


def pixels_of(scene: Scene) -> NDArray[np.uint8]:
    return np.asarray(scene.image)


def codes_of(arrangement: Arrangement) -> NDArray[np.uint8]:
    """uint8 [SIDE, FACTOR, SIDE, FACTOR]: the code of every sub-pixel."""
    codes = np.asarray(arrangement.canvas.image.getchannel("A"))
    return codes.reshape(SIDE, FACTOR, SIDE, FACTOR)


def owners_of(arrangement: Arrangement) -> NDArray[np.int64]:
    """int64 [SIDE, FACTOR, SIDE, FACTOR]: the owner of every sub-pixel, 0 for the background."""
    owner_of = np.array([code.owner for code in arrangement.canvas.codes])
    return owner_of[codes_of(arrangement)]
