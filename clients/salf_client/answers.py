"""From an answer's tensors to an explanation: every check of what a server sent stands here."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from salf_client.errors import ContractMismatchError
from salf_client.explanation import ConceptEvidence, Explanation
from salf_client.pictures import KeptPicture
from salf_contract import EXPLAIN_OUTPUTS, NO_CONCEPT, Metadata, TensorSpec, contract_id_from_words

ANSWER_TENSORS = tuple(spec.name for spec in EXPLAIN_OUTPUTS)
_FP32 = np.dtype(np.float32)
_NUMPY_TYPES = {"FP32": _FP32, "INT32": np.dtype(np.int32)}
#: Tensors with an axis of M concepts; those with one of K classes are the logits, and the others have top slots.
_PER_CLASS = frozenset({"logits", "edited_logits"})
_PER_CONCEPT = frozenset({"all_maps", "all_scores", "region_scores", "contributions", "edited_contributions"})
#: Name, shape, type, and KServe's name of the type.
_Expected: TypeAlias = tuple[str, tuple[int, ...], np.dtype[Any], str]
#: By contract id and identity of the specs, which are kept as well, so that no others can take that identity.
_EXPECTED: dict[tuple[str, int], tuple[tuple[TensorSpec, ...], tuple[_Expected, ...]]] = {}
_KEPT_EXPECTED = 64
_FEW = 32
# Coverage is a ratio of two float32 sums.
_COVERAGE_SLACK = 1e-3


def answered_contract_id(tensors: Mapping[str, NDArray[Any]]) -> str:
    """Which metadata document an answer belongs to, 32 hex digits.

    Args:
        tensors: the answer; `contract_id` is INT32 [1,4].

    Raises:
        ContractMismatchError: the tensor has another shape.
    """
    words = tensors["contract_id"]
    if words.shape != (1, 4) or words.dtype != np.int32:
        raise ContractMismatchError(
            f"the answer's contract_id is {words.dtype} {list(words.shape)}, expected int32 [1, 4]"
        )
    return _contract_id(words.tobytes())


@lru_cache(maxsize=64)
def _contract_id(words: bytes) -> str:
    return contract_id_from_words(np.frombuffer(words, dtype=np.int32))


def read_answer(
    tensors: Mapping[str, NDArray[Any]],
    metadata: Metadata,
    *,
    model: str,
    asked_target: int | None,
    top: int,
    source_size: tuple[int, int],
    crop_box: tuple[float, float, float, float],
    picture: KeptPicture,
    latency_ms: float,
) -> Explanation:
    """Make an explanation of an answer.

    Args:
        tensors: name -> array [1, ...] of `ANSWER_TENSORS`.
        metadata: the document whose contract id the answer carries.
        model: name the answer came from.
        asked_target: index of the class that was asked for; None for the predicted one.
        top: how many concepts to show, 1..metadata.top; the others go to the rest.
        source_size: (width, height) of the source in pixels, upright.
        crop_box: (left, top, right, bottom) in source pixels: what the model saw.
        picture: the source, for drawing.
        latency_ms: what the call took.

    Raises:
        ContractMismatchError: a shape, type or value does not fit the metadata.
    """
    answer = checked(tensors, metadata, EXPLAIN_OUTPUTS)
    logits = answer["logits"]
    label = int(logits.argmax())
    target = int(answer["target_class"][0])
    if not 0 <= target < len(metadata.classes) or (asked_target is not None and target != asked_target):
        asked = "the predicted class" if asked_target is None else f"class {asked_target}"
        raise ContractMismatchError(
            f"model '{model}' explained class {target}, but was asked for {asked} of {len(metadata.classes)}; "
            f"export the model again"
        )
    indices: list[int] = answer["top_concepts"].tolist()
    used = len(indices) - indices.count(NO_CONCEPT)
    if NO_CONCEPT in indices[:used] or max(indices) >= len(metadata.concepts) or min(indices) < NO_CONCEPT:
        raise ContractMismatchError(
            f"model '{model}' answered with concepts {indices}, but it has {len(metadata.concepts)}, "
            f"and unused slots come last; export the model again"
        )
    shown = min(top, used)
    contributions: list[float] = answer["top_contributions"].tolist()
    scores: list[float] = answer["top_scores"].tolist()
    maps = read_only(answer["top_maps"])
    return Explanation(
        label=metadata.classes[label],
        label_index=label,
        target=metadata.classes[target],
        target_index=target,
        concepts=tuple(
            [
                ConceptEvidence(metadata.concepts[index], index, contributions[slot], scores[slot], maps[slot])
                for slot, index in enumerate(indices[:shown])
            ]
        ),
        rest_contribution=float(answer["rest_contribution"][0]) + sum(contributions[shown:used]),
        bias=float(answer["bias"][0]),
        coverage=_coverage_of_shown(float(answer["coverage"][0]), contributions[:used], shown=shown),
        logits=read_only(logits),
        model=model,
        version=metadata.version,
        contract_id=metadata.contract_id,
        source_size=source_size,
        crop_box=crop_box,
        latency_ms=latency_ms,
        kept=picture,
    )


def checked(
    tensors: Mapping[str, NDArray[Any]], metadata: Metadata, specs: tuple[TensorSpec, ...]
) -> dict[str, NDArray[Any]]:
    """An answer without its batch axis.

    Args:
        tensors: name -> array [1, ...].
        metadata: the document that the answer belongs to.
        specs: what it must hold; a dimension of -1 is what the metadata says.

    Raises:
        ContractMismatchError: a shape, a type, NaN or infinity.
    """
    answer = {}
    for name, expected, kind, datatype in _expected(metadata, specs):
        array = tensors[name]
        if array.shape != expected or (array.dtype is not kind and array.dtype != kind):
            raise ContractMismatchError(
                f"the answer's {name} is {array.dtype} {list(array.shape)}, but the model's metadata says "
                f"{datatype} {list(expected)}; export the model again"
            )
        if kind is _FP32 and not _is_finite(array):
            raise ContractMismatchError(
                f"the answer's {name} holds NaN or infinity; check the model with its exporter's verification"
            )
        answer[name] = array[0]
    return answer


def _expected(metadata: Metadata, specs: tuple[TensorSpec, ...]) -> tuple[_Expected, ...]:
    """What is expected of each tensor; kept, since the same document answers most requests."""
    key = (metadata.contract_id, id(specs))
    known = _EXPECTED.get(key)
    if known is not None:
        return known[1]
    height, width = metadata.map_size
    sizes = dict.fromkeys(_PER_CONCEPT, len(metadata.concepts)) | dict.fromkeys(_PER_CLASS, len(metadata.classes))
    expected = []
    for spec in specs:
        named: dict[int | str, int] = {-1: sizes.get(spec.name, metadata.top), "h": height, "w": width}
        shape = (1, *(named[dim] if dim in named else int(dim) for dim in spec.dims))
        expected.append((spec.name, shape, _NUMPY_TYPES[spec.datatype], spec.datatype))
    if len(_EXPECTED) >= _KEPT_EXPECTED:
        _EXPECTED.clear()
    _EXPECTED[key] = specs, tuple(expected)
    return _EXPECTED[key][1]


def _is_finite(array: NDArray[np.float32]) -> bool:
    # A sum is finite only if every value is, and costs less than asking each of them; of few values, without numpy.
    total = sum(array.ravel().tolist()) if array.size <= _FEW else np.add.reduce(array, axis=None)
    return math.isfinite(total) or bool(np.isfinite(array).all())


def _coverage_of_shown(coverage: float, contributions: list[float], *, shown: int) -> float:
    """Coverage of the first slots, given that of all slots.

    Args:
        coverage: sum |contributions| / sum |all contributions|, as answered.
        contributions: of the used slots, in logit units.
        shown: how many of them are kept.
    """
    if not -_COVERAGE_SLACK <= coverage <= 1 + _COVERAGE_SLACK:
        raise ContractMismatchError(f"the answer's coverage is {coverage:.6g}, expected 0..1; export the model again")
    in_slots = sum(map(abs, contributions))
    if shown == len(contributions) or in_slots == 0:
        return min(max(coverage, 0.0), 1.0)
    return min(max(coverage * sum(map(abs, contributions[:shown])) / in_slots, 0.0), 1.0)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of classes, FP64 [K]."""
    powers = np.exp(logits.astype(np.float64) - float(logits.max()))
    return np.asarray(powers / powers.sum(), dtype=np.float64)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The array if nobody can write to it, or else a copy to which nobody can."""
    if not array.flags.writeable:
        return array
    own = np.array(array)
    own.setflags(write=False)
    return own
