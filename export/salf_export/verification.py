"""Compare the exported graphs with the PyTorch model they came from, before anything is published.

The reference is the model as trained: all maps by convolution, pooling, normalisation, the unfolded head, sorting. It
runs in float64, so that the whole difference is the graph's.
"""

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from salf_contract import FEATURES_INPUT, IMAGE_INPUT, PREDICTED_CLASS, Fidelity, errors_that_count
from salf_export.comparison import Reference, difference, explain_errors
from salf_export.errors import FidelityError, OptionError
from salf_export.kinds import Precision
from salf_export.runtime import Arrays, Session
from salf_export.triton_config import Role
from salf_export.what_if_comparison import Statistics, random_question, what_if_errors
from salf_training.checkpoint import ModelCard
from salf_training.model import SalfModel

#: Largest absolute difference that is published, in each output's own unit.
BOUND = 1e-4
_SEED = 20_250_611
_LARGEST_BATCH = 5


def verify(
    sessions: Mapping[Role, Session],
    model: SalfModel,
    card: ModelCard,
    *,
    contract_id: NDArray[np.int32],
    pictures: NDArray[np.uint8] | None = None,
    bound: float = BOUND,
    precision: Precision = "fp32",
) -> Fidelity:
    """Compare answers on all-black, all-white, noisy and smooth pictures, on given ones, and on odd batches.

    A graph that starts from features is asked about the features of these pictures; where the model has no backbone,
    about random ones.

    Args:
        sessions: role -> loaded graph.
        model: what they were exported from.
        card: of the model; gives the sizes of pictures and features.
        contract_id: INT32 [4] that every answer must carry.
        pictures: UINT8 [P,H,W,3], prepared; compared as well.
        bound: largest absolute difference in any output.
        precision: of the backbone; if reduced, only what must hold in any precision is held to the bound (sums, the
            bias, the contract id), and the other errors are recorded. Whether explanations survive is the gate's part.

    Returns:
        The largest error of each output.

    Raises:
        FidelityError: an output differs by more than the bound or is not finite, or contributions do not sum to the
            logit; the message holds a table of all outputs.
        OptionError: pictures of another type or size, or for a model without a backbone.
    """
    check_pictures(card, pictures)
    wide = copy.deepcopy(model).double().eval()
    statistics = Statistics(wide.score_mean.numpy(), wide.score_std.numpy(), wide.pooling)
    random = np.random.default_rng(_SEED)
    worst: dict[str, float] = {}
    compared = 0
    for batch in _features(card, random) if card.starts_from_features else _pictures(card, pictures, random):
        compared += len(batch)
        for inputs, reference in _questions(wide, batch):
            for session in sessions.values():
                if not inputs.keys() <= set(session.input_names):
                    continue
                for errors in _errors(session, inputs, reference, statistics, contract_id=contract_id, random=random):
                    for name, error in errors.items():
                        # A NaN must not slip through a comparison: it counts as infinitely wrong.
                        worst[name] = max(worst.get(name, 0.0), error if np.isfinite(error) else np.inf)
    judged = errors_that_count(worst, precision)
    if any(error > bound for error in judged.values()):
        raise FidelityError(_table(judged, bound))
    runtime = next(iter(sessions.values())).runtime
    return Fidelity(runtime=runtime, precision=precision, max_abs_error=dict(sorted(worst.items())), pictures=compared)


def _errors(
    session: Session,
    inputs: Arrays,
    reference: Reference,
    statistics: Statistics,
    *,
    contract_id: NDArray[np.int32],
    random: np.random.Generator,
) -> Iterator[dict[str, float]]:
    batch = len(next(iter(inputs.values())))
    predicted = np.full((batch, 1), PREDICTED_CLASS, np.int32)
    chosen = random.integers(0, reference.logits.shape[1], predicted.shape, dtype=np.int32)
    explains = "target" in session.input_names
    for wanted in (predicted, chosen) if explains else (predicted,):
        _, concepts, *map_size = reference.maps.shape
        size = (map_size[0], map_size[1])
        question = random_question(batch, concepts=concepts, map_size=size, random=random) | {"target": wanted}
        answer = session.run({**inputs, **question})
        yield {"contract_id": difference(answer["contract_id"], np.tile(contract_id, (batch, 1)))}
        if "region" in session.input_names:
            yield what_if_errors(answer, question, reference, statistics)
        elif explains:
            yield explain_errors(answer, wanted, reference)
        whole = {"all_maps": reference.maps, "all_scores": reference.scores}
        yield {name: difference(answer[name], values) for name, values in whole.items() if name in answer}


def _questions(wide: SalfModel, batch: NDArray[np.uint8] | NDArray[np.float32]) -> Iterator[tuple[Arrays, Reference]]:
    """What graphs are asked about a batch of pictures or features, each with the model's own answer."""
    with torch.inference_mode():
        if batch.dtype == np.uint8:
            features = wide.features(torch.from_numpy(batch))
            yield {IMAGE_INPUT.name: batch}, _refer(wide, features)
            batch = features.numpy().astype(np.float32)
        # The graph gets features in float32: the reference starts from the same.
        yield {FEATURES_INPUT.name: batch}, _refer(wide, torch.from_numpy(batch).double())


def _features(card: ModelCard, random: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """FP32 [B,C,h',w'] with B = 1, 3, 5: zeros, then what networks end in, of either sign or rectified."""
    yield np.zeros((1, *card.feature_shape), np.float32)
    yield np.maximum(random.standard_normal((3, *card.feature_shape), np.float32), 0)
    yield random.standard_normal((5, *card.feature_shape), np.float32)


def _pictures(
    card: ModelCard, pictures: NDArray[np.uint8] | None, random: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """UINT8 [B,H,W,3] with B = 1, 3, 5, then the given pictures."""
    shape = (card.preparation.height, card.preparation.width, 3)
    noise = random.integers(0, 256, (4, *shape), dtype=np.uint8)
    yield np.zeros((1, *shape), np.uint8)
    yield np.stack([np.full(shape, 255, np.uint8), noise[0], smooth_picture(*shape[:2], phase=0.0)])
    yield np.stack([*noise[1:], smooth_picture(*shape[:2], phase=1.0), smooth_picture(*shape[:2], phase=2.0)])
    if pictures is None:
        return
    for start in range(0, len(pictures), _LARGEST_BATCH):
        yield pictures[start : start + _LARGEST_BATCH]


def check_pictures(card: ModelCard, pictures: NDArray[np.uint8] | None) -> None:
    """Raises OptionError unless `pictures` are UINT8 [P,H,W,3] at the model's size, for a model that takes pictures."""
    if pictures is None:
        return
    if card.starts_from_features:
        raise OptionError("this model has no backbone and takes no pictures; export it without verification pictures")
    shape = (card.preparation.height, card.preparation.width, 3)
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


def _refer(wide: SalfModel, features: torch.Tensor) -> Reference:
    answer = wide.from_features(features)
    normalised = (answer.maps - wide.score_mean[:, None, None]) / wide.score_std[:, None, None]
    return Reference(
        maps=answer.maps.numpy(),
        scores=answer.scores.numpy(),
        logits=answer.logits.numpy(),
        normalised_maps=normalised.numpy(),
        head_weight=wide.head_weight.numpy(),
        head_bias=wide.head_bias.numpy(),
    )


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
