"""Known answers, for probes: where they are kept, and how an explanation differs from one.

There are two kinds of files. `salf export` lays a `probe.npz` beside each version of a model: arrays `input:NAME` and
`output:NAME` with a batch axis of 1, an encoded picture as `input_bytes:NAME` UINT8 [n]. `recorded` makes a JSON
document of an answer that somebody trusts.
"""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salf_client.errors import KnownAnswerError, StoredExplanationError, VersionNotKnownError
from salf_client.explanation import Explanation
from salf_client.models import ModelInfo
from salf_client.storing import from_plain
from salf_contract import ENCODED_INPUT, ENCODED_MODEL, IMAGE_INPUT, NO_CONCEPT, contract_id_from_words

#: Relative plus absolute, as the server's own probes allow: processors round differently.
TOLERANCE = 1e-3
PROBE_FILE = "probe.npz"
FORMAT = 1


@dataclass(frozen=True)
class KnownAnswer:
    """A picture, and what one version of a model says about it.

    Attributes:
        picture: an encoded file, or UINT8 [H,W,3] at the model's size.
        contract_id: of the version.
        target_class: index of the class that is explained, the predicted one.
        concepts: indices, strongest first.
        values: FP32 `logits` [K], `bias` [1], `rest_contribution` [1], `coverage` [1], and for the n concepts
            `contributions` [n], `scores` [n], `maps` [n,h,w].
    """

    picture: bytes | NDArray[np.uint8]
    contract_id: str
    target_class: int
    concepts: tuple[int, ...]
    values: Mapping[str, NDArray[np.float32]]


def synthetic_picture(size: tuple[int, int]) -> bytes:
    """Soft coloured waves as a PNG, which every decoder reads alike: always the same for a size.

    Args:
        size: (height, width) of the model's input; the picture is larger, so that its preparation counts as well.
    """
    height, width = size[0] * 3 // 2, size[1] * 2
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / width * (4 + c) + y / height * (9 - 3 * c) + c) for c in range(3)]
    file = io.BytesIO()
    Image.fromarray(np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def recorded(picture: bytes, explanation: Explanation) -> str:
    """A JSON document that `read_known_answer` reads.

    Args:
        picture: encoded, as it was sent.
        explanation: the answer, with all concepts that the model shows.
    """
    document = {
        "known_answer": FORMAT,
        "picture": base64.b64encode(picture).decode(),
        "explanation": explanation.to_dict(maps=True),
    }
    return json.dumps(document) + "\n"


def read_known_answer(path: Path, model: ModelInfo) -> KnownAnswer:
    """Read what the model must say.

    Args:
        path: a recorded JSON document, a `probe.npz`, or a model repository, in which the version's own is looked up.
        model: what is served.

    Raises:
        VersionNotKnownError: the repository holds the model, but no answer of the version that is served.
        KnownAnswerError: there is no such file, or it holds no known answer.
    """
    if path.is_dir():
        folders = [path / name for name in (ENCODED_MODEL.format(name=model.name), model.name)]
        files = [folder / str(model.version) / PROBE_FILE for folder in folders]
        files = [file for file in files if file.is_file()]
        if not files:
            is_known = any(found for folder in folders for found in folder.glob(f"*/{PROBE_FILE}"))
            raise (VersionNotKnownError if is_known else KnownAnswerError)(
                f"{path} holds no {PROBE_FILE} of '{model.name}' version {model.version}, which the server serves; "
                f"give the model repository that it serves, or record an answer with `salf probe --record FILE`"
            )
        path = files[0]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KnownAnswerError(
            f"{path} cannot be read ({error.strerror}); record an answer with `salf probe --record {path}`"
        ) from error
    try:
        return _from_arrays(data) if path.suffix == ".npz" and not data.startswith(b"{") else _from_json(data)
    # numpy raises several kinds for a broken archive (BadZipFile, ValueError, EOFError, OSError, zlib.error).
    except Exception as error:
        raise KnownAnswerError(
            f"{path} holds no known answer ({type(error).__name__}: {error}); "
            f"record one with `salf probe --record FILE`, or export the model again"
        ) from error


def difference(known: KnownAnswer, answer: Explanation) -> str | None:
    """What is wrong with an answer, worded to follow "the model"; None if it is right.

    Classes and concepts must be the same, numbers within 1e-3 (relative plus absolute).
    """
    if answer.target_index != known.target_class:
        return f"sees class {answer.target_index} ({answer.target}), but {known.target_class} is right"
    got = _answered(answer)
    for name, wanted in known.values.items():
        if got[name].size == wanted.size == 0:  # maps of no concepts have no size in an explanation
            continue
        if got[name].shape != wanted.shape:
            return f"answers with {name} {list(got[name].shape)}, but {list(wanted.shape)} is right"
        if not np.allclose(got[name], wanted, rtol=TOLERANCE, atol=TOLERANCE):
            furthest = float(np.abs(got[name] - wanted).max())
            return f"answers with other {name.replace('_', ' ')}: they differ by up to {furthest:.3g}"
    concepts = tuple(concept.index for concept in answer.concepts)
    if concepts != known.concepts:
        return f"names the concepts {list(concepts)}, but {list(known.concepts)} are right"
    return None


def _answered(answer: Explanation) -> dict[str, NDArray[np.float32]]:
    maps = [concept.map for concept in answer.concepts]
    values: dict[str, Any] = {
        "logits": answer.logits,
        "bias": [answer.bias],
        "rest_contribution": [answer.rest_contribution],
        "coverage": [answer.coverage],
        "contributions": [concept.contribution for concept in answer.concepts],
        "scores": [concept.score for concept in answer.concepts],
        "maps": np.stack(maps) if maps else [],
    }
    return {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}


def _from_json(data: bytes) -> KnownAnswer:
    document = json.loads(data)
    if document["known_answer"] != FORMAT:
        raise ValueError(f"it has format {document['known_answer']}, this salf reads {FORMAT}")
    try:
        answer = from_plain(document["explanation"])
    except StoredExplanationError as error:
        raise ValueError(str(error)) from error
    picture = base64.b64decode(document["picture"], validate=True)
    return KnownAnswer(
        picture=picture,
        contract_id=answer.contract_id,
        target_class=answer.target_index,
        concepts=tuple(concept.index for concept in answer.concepts),
        values=_answered(answer),
    )


def _from_arrays(data: bytes) -> KnownAnswer:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        given = {name: arrays[name] for name in arrays.files}
    encoded = given.get(f"input_bytes:{ENCODED_INPUT.name}")
    picture = given[f"input:{IMAGE_INPUT.name}"][0] if encoded is None else encoded.tobytes()
    outputs = {name.removeprefix("output:"): array[0] for name, array in given.items() if name.startswith("output:")}
    used = outputs["top_concepts"] != NO_CONCEPT
    values = {name: outputs[name] for name in ("logits", "bias", "rest_contribution", "coverage")}
    values |= {name: outputs[f"top_{name}"][used] for name in ("contributions", "scores", "maps")}
    return KnownAnswer(
        picture=picture,
        contract_id=contract_id_from_words(outputs["contract_id"]),
        target_class=int(outputs["target_class"][0]),
        concepts=tuple(outputs["top_concepts"][used].tolist()),
        values=values,
    )
