"""How far a linear model gets without seeing objects: ``python -m salf_training.scenes.triviality``.

If thumbnails or empty backgrounds told the class, nothing measured on scenes would mean anything. Needs scikit-learn.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salf_training.scenes.classes import CLASSES
from salf_training.scenes.compose import draw_scene, label_of
from salf_training.scenes.errors import SceneError

THUMBNAIL: Final = 8
MARGIN: Final = 0.10
"""How far above chance a linear model may get."""


@dataclass(frozen=True)
class Triviality:
    """Accuracies on held-out scenes, each 0 to 1."""

    chance: float
    thumbnail_accuracy: float
    background_accuracy: float
    train: int
    test: int

    @property
    def passed(self) -> bool:
        """Whether both accuracies are below chance plus ``MARGIN``."""
        return max(self.thumbnail_accuracy, self.background_accuracy) < self.chance + MARGIN


def measure_triviality(*, train: int = 3000, test: int = 1000, first_seed: int = 0) -> Triviality:
    """Fit logistic regressions on 8 x 8 thumbnails of scenes, and of the same scenes without objects.

    Raises:
        SceneError: scikit-learn is missing.
    """
    seeds = range(first_seed, first_seed + train + test)
    pictures: dict[bool, list[NDArray[np.float32]]] = {True: [], False: []}
    for seed in seeds:
        for with_objects, thumbnails in pictures.items():
            thumbnails.append(_thumbnail(draw_scene(seed, with_objects=with_objects).image))
    labels = np.array([label_of(seed) for seed in seeds], np.int64)
    return Triviality(
        chance=1 / len(CLASSES),
        thumbnail_accuracy=_held_out_accuracy(np.stack(pictures[True]), labels, train),
        background_accuracy=_held_out_accuracy(np.stack(pictures[False]), labels, train),
        train=train,
        test=test,
    )


def _thumbnail(image: Image.Image) -> NDArray[np.float32]:
    """float32 [8 * 8 * 3], 0 to 1."""
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float32).reshape(-1) / np.float32(255)


def _held_out_accuracy(features: NDArray[np.float32], labels: NDArray[np.int64], train: int) -> float:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise SceneError("measuring triviality needs scikit-learn: pip install scikit-learn") from error
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(features[:train], labels[:train])
    return float(model.score(features[train:], labels[train:]))


def main(arguments: list[str] | None = None) -> int:
    """Print both accuracies; the exit status is 1 if one reaches chance plus the margin."""
    parser = argparse.ArgumentParser(prog="python -m salf_training.scenes.triviality", description=__doc__)
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_args(arguments)
    result = measure_triviality(train=options.train, test=options.test, first_seed=options.first_seed)
    sys.stdout.write(json.dumps({**asdict(result), "passed": result.passed}) + "\n" if options.json else _table(result))
    return 0 if result.passed else 1


def _table(result: Triviality) -> str:
    bound = result.chance + MARGIN
    return (
        f"chance                        {result.chance:.3f}\n"
        f"8 x 8 thumbnails              {result.thumbnail_accuracy:.3f}\n"
        f"8 x 8 thumbnails, no objects  {result.background_accuracy:.3f}\n"
        f"both below {bound:.3f}: {'yes' if result.passed else 'NO'}\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
