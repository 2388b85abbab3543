"""Questions with known answers, as .npz: a server is ready when it answers them right.

Arrays `input:NAME` for every input and `output:NAME` for every output, batch axis of 1 included; an input of type BYTES
is kept as `input_bytes:NAME` UINT8 [n], because arrays of objects could only be read by unpickling.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

from salf_contract import (
    ENCODED_INPUT,
    FEATURES_INPUT,
    IMAGE_INPUT,
    PREDICTED_CLASS,
    Preparation,
    decode_picture,
    prepare,
)
from salf_export.runtime import Arrays, Session
from salf_export.verification import smooth_picture
from salf_export.what_if_comparison import random_question
from salf_training.checkpoint import ModelCard

PROBE_FILE = "probe.npz"
_TARGET = "target"


def probe_bytes(session: Session, card: ModelCard, *, concepts: int) -> bytes:
    """A graph's probe.

    Its inputs are those that the graph has: `image` UINT8 [1,H,W,3] or `features` FP32 [1,C,h',w'], `target`
    INT32 [1,1], a region and edits of a what-if question.
    """
    map_size = card.feature_shape[1:] if card.map_size is None else card.map_size
    questions: Arrays = {
        IMAGE_INPUT.name: smooth_picture(card.preparation.height, card.preparation.width, phase=0.5)[None],
        FEATURES_INPUT.name: np.random.default_rng(0).standard_normal((1, *card.feature_shape), np.float32),
        _TARGET: _predicted(),
        **random_question(1, concepts=concepts, map_size=map_size, random=np.random.default_rng(1)),
    }
    inputs = {name: questions[name] for name in session.input_names}
    return _archive({f"input:{name}": values for name, values in inputs.items()}, session.run(inputs))


def encoded_probe_bytes(explain: Session, preparation: Preparation) -> bytes:
    """The encoded endpoint's probe: a PNG of another size than the model's, so that preparation is probed as well.

    PNG loses nothing, so that every decoder gives the same pixels.
    """
    height, width = preparation.height * 3 // 2, preparation.width * 2
    file = io.BytesIO()
    Image.fromarray(smooth_picture(height, width, phase=0.5)).save(file, "PNG")
    prepared = prepare(decode_picture(file.getvalue()), preparation)
    answers = explain.run({IMAGE_INPUT.name: prepared.pixels[None], _TARGET: _predicted()})
    answers["source_size"] = np.array([prepared.source_size], np.int32)
    answers["crop_box"] = np.array([prepared.crop_box], np.float32)
    encoded = np.frombuffer(file.getvalue(), np.uint8)
    return _archive({f"input_bytes:{ENCODED_INPUT.name}": encoded, f"input:{_TARGET}": _predicted()}, answers)


def _predicted() -> Any:
    return np.full((1, 1), PREDICTED_CLASS, np.int32)


def _archive(inputs: Arrays, outputs: Arrays) -> bytes:
    file = io.BytesIO()
    arrays: dict[str, Any] = {**inputs, **{f"output:{name}": values for name, values in outputs.items()}}
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()
