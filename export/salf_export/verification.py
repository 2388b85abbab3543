"""Compare the exported graphs with the PyTorch model they came from, before anything is published.

The reference is the model as trained: all maps by convolution, pooling, normalisation, the unfolded head, sorting. It
runs in float64, so that the whole difference is the graph's.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from salf_contract import NO_CONCEPT, PREDICTED_CLASS, Fidelity, Preparation, sum_tolerance
from salf_export.errors import FidelityError, OptionError
from salf_export.runtime import RUNTIME, Arrays, GraphSession
from salf_export.triton_config import Role
from salf_training.model import SalfModel

#: Largest absolute difference that is published, in each output's own unit.
BOUND = 1e-4
_SEED = 20_250_611
_LARGEST_BATCH = 5


@dataclass(frozen=True)
class Reference:
    """The unfolded model's answer to a batch, float64.

    Attributes:
        maps: [B,M,h,w] raw c(x).
        scores: [B,M] z.
        logits: [B,K].
        normalised_maps: [B,M,h,w] (c - mean) / std.
        head_weight: [K,M].
        head_bias: [K].
    """

    maps: NDArray[np.float64]
    scores: NDArray[np.float64]
    logits: NDArray[np.float64]
    normalised_maps: NDArray[np.float64]
    head_weight: NDArray[np.float64]
    head_bias: NDArray[np.float64]


def verify(
    sessions: Mapping[Role, GraphSession],
    model: SalfModel,
    preparation: Preparation,
    *,
    contract_id: NDArray[np.int32],
    pictures: NDArray[np.uint8] | None = None,
    bound: float = BOUND,
) -> Fidelity:
    """Compare answers on all-black, all-white, noisy and smooth pictures, on given ones, and on odd batches.

    Args:
        sessions: role ("explain", "all_maps", "all_scores") -> loaded graph.
        model: what they were exported from.
        preparation: gives H and W.
        contract_id: INT32 [4] that every answer must carry.
        pictures: UINT8 [P,H,W,3], prepared; compared as well.
        bound: largest absolute difference in any output.

    Returns:
        The largest error of each output.

    Raises:
        FidelityError: an output differs by more than the bound or is not finite, or contributions do not sum to the
            logit; the message holds a table of all outputs.
        OptionError: pictures of another type or size.
    """
    if pictures is not None:
        check_pictures(preparation, pictures)
    wide = copy.deepcopy(model).double().eval()
    random = np.random.default_rng(_SEED)
    worst: dict[str, float] = {}
    compared = 0
    for batch in _batches(preparation, pictures, random):
        reference = _refer(wide, batch)
        compared += len(batch)
        for errors in _errors(sessions, batch, reference, contract_id=contract_id, random=random):
            for name, error in errors.items():
                # A NaN must not slip through a comparison: it counts as infinitely wrong.
                worst[name] = max(worst.get(name, 0.0), error if np.isfinite(error) else np.inf)
    if any(error > bound for error in worst.values()):
        raise FidelityError(_table(worst, bound))
    return Fidelity(runtime=RUNTIME, precision="fp32", max_abs_error=dict(sorted(worst.items())), pictures=compared)


def explain_errors(answer: Arrays, wanted: NDArray[np.int32], reference: Reference) -> dict[str, float]:
    """How far an explain answer lies from the reference, output by output.

    Top concepts are compared as a set, aligned by index: which of two equally strong ones is shown does not matter,
    but showing a weaker one in place of a stronger one counts as an error of that size.

    Args:
        answer: output name -> array, batch axis first.
        wanted: INT32 [B,1], the classes asked for; PREDICTED_CLASS asks for the best.
        reference: of the same batch.

    Returns:
        Output name -> largest absolute error; "sum" is the excess of |contributions + rest + bias - logit| over the
        contract's tolerance.
    """
    errors = {"logits": _difference(answer["logits"], reference.logits)}
    for row in range(len(wanted)):
        explained = int(answer["target_class"][row, 0])
        asked = int(wanted[row, 0])
        if not 0 <= explained < reference.logits.shape[1] or asked not in (PREDICTED_CLASS, explained):
            return errors | {"target_class": np.inf}
        gap = float(reference.logits[row].max() - reference.logits[row, explained])
        found = _row_errors({name: values[row] for name, values in answer.items()}, explained, row, reference)
        found["target_class"] = gap if asked == PREDICTED_CLASS else 0.0
        errors = {name: _worse(errors.get(name, 0.0), found.get(name, 0.0)) for name in errors | found}
    return errors


def _row_errors(answer: Arrays, explained: int, row: int, reference: Reference) -> dict[str, float]:
    weights = reference.head_weight[explained]
    contributions = weights * reference.scores[row]
    concepts = answer["top_concepts"].astype(np.int64)
    shown = concepts[concepts != NO_CONCEPT]
    expected = min(len(concepts), int(np.count_nonzero(weights)))
    is_sound = (
        len(shown) == expected == len(set(shown.tolist()))
        and (concepts[:expected] == shown).all()
        and ((shown >= 0) & (shown < len(weights))).all()
    )
    if not is_sound:
        return {"top_concepts": np.inf}
    sizes = np.abs(contributions)
    others = np.delete(sizes, shown)
    missed = max(0.0, others.max(initial=0.0) - sizes[shown].min(initial=np.inf))
    disorder = np.diff(np.abs(answer["top_contributions"])).max(initial=0.0)

    def padded(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([values[shown], np.zeros((len(concepts) - expected, *values.shape[1:]))])

    rest = np.delete(contributions, shown).sum()
    total = sizes.sum()
    coverage = sizes[shown].sum() / total if total > 0 else 1.0
    answered = answer["top_contributions"].astype(np.float64).sum() + float(answer["rest_contribution"][0])
    gap = abs(answered + float(answer["bias"][0]) - float(answer["logits"][explained]))
    return {
        "top_concepts": max(missed, float(disorder)),
        "top_contributions": _difference(answer["top_contributions"], padded(contributions)),
        "top_scores": _difference(answer["top_scores"], padded(reference.scores[row])),
        "top_maps": _difference(answer["top_maps"], padded(reference.normalised_maps[row])),
        "rest_contribution": _difference(answer["rest_contribution"], rest),
        "coverage": _difference(answer["coverage"], coverage) if total > BOUND else 0.0,
        "bias": _difference(answer["bias"], reference.head_bias[explained]),
        "sum": _worse(0.0, gap - sum_tolerance(contributions)),
    }


def _errors(
    sessions: Mapping[Role, GraphSession],
    batch: NDArray[np.uint8],
    reference: Reference,
    *,
    contract_id: NDArray[np.int32],
    random: np.random.Generator,
) -> Iterator[dict[str, float]]:
    predicted = np.full((len(batch), 1), PREDICTED_CLASS, np.int32)
    chosen = random.integers(0, reference.logits.shape[1], predicted.shape, dtype=np.int32)
    whole: dict[Role, NDArray[np.float64]] = {"all_maps": reference.maps, "all_scores": reference.scores}
    for role, session in sessions.items():
        for wanted in (predicted, chosen) if role == "explain" else (predicted,):
            answer = session.run({"image": batch, "target": wanted})
            yield {"contract_id": _difference(answer["contract_id"], np.tile(contract_id, (len(batch), 1)))}
            if role == "explain":
                yield explain_errors(answer, wanted, reference)
            else:
                yield {role: _difference(answer[role], whole[role])}


def _batches(
    preparation: Preparation, pictures: NDArray[np.uint8] | None, random: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """UINT8 [B,H,W,3] with B = 1, 3, 5, then the given pictures."""
    shape = (preparation.height, preparation.width, 3)
    noise = random.integers(0, 256, (4, *shape), dtype=np.uint8)
    yield np.zeros((1, *shape), np.uint8)
    yield np.stack([np.full(shape, 255, np.uint8), noise[0], smooth_picture(*shape[:2], phase=0.0)])
    yield np.stack([*noise[1:], smooth_picture(*shape[:2], phase=1.0), smooth_picture(*shape[:2], phase=2.0)])
    if pictures is None:
        return
    for start in range(0, len(pictures), _LARGEST_BATCH):
        yield pictures[start : start + _LARGEST_BATCH]


def check_pictures(preparation: Preparation, pictures: NDArray[np.uint8]) -> None:
    """Raises OptionError unless `pictures` are UINT8 [P,H,W,3] at the model's size."""
    shape = (preparation.height, preparation.width, 3)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != shape:
        raise OptionError(
            f"verification pictures are {pictures.dtype} {pictures.shape}, expected uint8 (pictures, {shape[0]}, "
            f"{shape[1]}, 3); prepare them with salf_contract.prepare"
        )


def smooth_picture(height: int, width: int, *, phase: float) -> NDArray[np.uint8]:
    """Soft coloured waves: compressible, and closer to a photograph than noise. UINT8 [height,width,3]."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [np.sin(x / width * (5 + c) + y / height * (7 - 2 * c) + phase + c) for c in range(3)]
    return np.rint(127.5 + 127.5 * np.stack(channels, axis=-1)).astype(np.uint8)


def _refer(wide: SalfModel, batch: NDArray[np.uint8]) -> Reference:
    with torch.inference_mode():
        answer = wide(torch.from_numpy(batch))
        normalised = (answer.maps - wide.score_mean[:, None, None]) / wide.score_std[:, None, None]
    return Reference(
        maps=answer.maps.numpy(),
        scores=answer.scores.numpy(),
        logits=answer.logits.numpy(),
        normalised_maps=normalised.numpy(),
        head_weight=wide.head_weight.numpy(),
        head_bias=wide.head_bias.numpy(),
    )


def _difference(got: NDArray[np.generic], expected: NDArray[np.generic] | np.floating | float) -> float:
    wide = np.asarray(expected, np.float64)
    if wide.ndim and got.shape != wide.shape:
        return np.inf
    error = np.abs(np.asarray(got, np.float64) - wide).max(initial=0.0)
    return float(error) if np.isfinite(error) else np.inf


def _worse(one: float, other: float) -> float:
    """The larger; a NaN on either side is infinitely bad."""
    return max(one, other) if np.isfinite(one) and np.isfinite(other) else np.inf


def _table(worst: Mapping[str, float], bound: float) -> str:
    rows = [
        f"  {name:<18} {error:>10.3g} {bound:>10.3g}  {'TOO LARGE' if error > bound else 'ok'}"
        for name, error in sorted(worst.items())
    ]
    head = f"  {'output':<18} {'max error':>10} {'bound':>10}"
    remedy = (
        "If all are just above the bound, the model's scores are too large for float32 (see score_std): raise `bound`. "
        "Otherwise the backbone is exported wrong: try another one, and report this one."
    )
    return "\n".join(
        ["the exported graphs answer differently from the PyTorch model; nothing was published.", head, *rows, remedy]
    )
