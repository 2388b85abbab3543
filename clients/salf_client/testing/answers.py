"""A model that answers every question of the contract right, with numbers drawn from a seed.

Features are mean colours of a grid's cells; a linear bottleneck, average pooling and a sparse linear head follow. So
contributions sum to logits, regions and edits agree with maps, and the same picture gets the same answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salf_contract import (
    NO_CONCEPT,
    Metadata,
    Preparation,
    array_to_picture,
    decode_picture,
    prepare,
    to_rgb,
)

_FLOOR = 1e-12


class MockModel:
    """One version of a model.

    Args:
        classes: their names.
        concepts: their names.
        name: of the explain model.
        version: its version.
        input_size: (height, width) that pictures are prepared to.
        map_size: (h, w) of concept maps.
        top: slots of an answer; more than there are concepts are cut off.
        seed: of all numbers.
    """

    def __init__(
        self,
        classes: Sequence[str],
        concepts: Sequence[str],
        *,
        name: str = "mock",
        version: int = 1,
        input_size: tuple[int, int] = (32, 32),
        map_size: tuple[int, int] = (4, 4),
        top: int = 16,
        seed: int = 0,
    ) -> None:
        self.metadata = Metadata(
            name=name,
            version=version,
            classes=tuple(classes),
            concepts=tuple(concepts),
            preparation=Preparation(height=input_size[0], width=input_size[1]),
            pooling="average",
            map_size=map_size,
            top=min(top, len(concepts)),
            provenance={"mock_seed": str(seed)},
        )
        random = np.random.default_rng(seed)
        K, M = len(classes), len(concepts)
        self._bottleneck = random.normal(size=(M, 3))
        self._mean, self._std = random.normal(scale=0.1, size=M), random.uniform(0.1, 0.3, size=M)
        weights = random.normal(size=(K, M))
        # A sparse head, of which no class is without a concept.
        kept = random.random((K, M)) < 0.5
        kept[np.arange(K), random.integers(0, M, K)] = True
        self.weights = np.where(kept, weights, 0.0)
        self.bias = random.normal(size=K)

    def explain(self, image: NDArray[np.uint8], target: int) -> dict[str, NDArray[Any]]:
        """Answer of the explain model, without batch axis.

        Args:
            image: UINT8 [H,W,3], prepared.
            target: class index, -1 for the predicted one.
        """
        maps = self._maps(image)
        scores = maps.mean(axis=(1, 2))
        logits = self.weights @ scores + self.bias
        k = int(logits.argmax()) if target < 0 else target
        contributions = self.weights[k] * scores
        order = np.argsort(-np.abs(contributions), kind="stable")[: self.metadata.top]
        order = order[contributions[order] != 0]
        rest = np.delete(contributions, order)
        total, shown = np.abs(contributions).sum(), np.abs(contributions[order]).sum()
        slots = self.metadata.top

        def padded(values: NDArray[Any], fill: float = 0.0) -> NDArray[Any]:
            return np.concatenate([values, np.full((slots - len(values), *values.shape[1:]), fill, values.dtype)])

        return {
            "logits": logits,
            "target_class": np.array([k]),
            "bias": self.bias[[k]],
            "top_concepts": padded(order, NO_CONCEPT),
            "top_contributions": padded(contributions[order]),
            "top_scores": padded(scores[order]),
            "rest_contribution": np.array([rest.sum()]),
            "coverage": np.array([shown / total if total > _FLOOR else 1.0]),
            "top_maps": padded(maps[order]),
        }

    def encoded(self, data: bytes, target: int) -> dict[str, NDArray[Any]]:
        """Answer of the encoded endpoint.

        Raises:
            PictureError: the bytes are no picture.
        """
        prepared = prepare(to_rgb(decode_picture(data)), self.metadata.preparation)
        return {
            **self.explain(prepared.pixels, target),
            "source_size": np.array(prepared.source_size),
            "crop_box": np.array(prepared.crop_box),
        }

    def all_maps(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Raw maps [M,h,w]."""
        return {"all_maps": self._maps(image) * self._std[:, None, None] + self._mean[:, None, None]}

    def all_scores(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Scores z [M]."""
        return {"all_scores": self._maps(image).mean(axis=(1, 2))}

    def what_if(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Answer to a region and to edits; the inputs are without batch axis."""
        maps = self._maps(inputs["image"])
        scores, region = maps.mean(axis=(1, 2)), inputs["region"].astype(np.float64)
        shifts = np.zeros_like(scores)
        edits = zip(inputs["edit_concepts"], inputs["edit_strengths"], inputs["edit_masks"], strict=True)
        for concept, strength, mask in edits:
            if 0 <= concept < len(shifts):
                shifts[concept] += strength * mask.mean()
        logits = self.weights @ scores + self.bias
        target = int(inputs["target"][0])
        k = int(logits.argmax()) if target < 0 else target
        total = region.sum()
        return {
            "region_scores": (maps * region).sum(axis=(1, 2)) / total if total > 0 else np.zeros_like(scores),
            "logits": logits,
            "target_class": np.array([k]),
            "bias": self.bias[[k]],
            "contributions": self.weights[k] * scores,
            "edited_logits": logits + self.weights @ shifts,
            "edited_contributions": self.weights[k] * (scores + shifts),
        }

    def _maps(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(c - mean) / std, FP64 [M,h,w]."""
        h, w = self.metadata.map_size
        # Pillow's box filter is the mean of each cell, for sizes that do not divide too.
        cells = array_to_picture(image).resize((w, h), resample=4)
        features = np.asarray(cells, dtype=np.float64) / 255 - 0.5
        raw = np.einsum("mc,hwc->mhw", self._bottleneck, features)
        return np.asarray((raw - self._mean[:, None, None]) / self._std[:, None, None])
