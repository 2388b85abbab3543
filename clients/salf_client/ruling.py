"""A model's global decision rules, read from its own answers.

A contribution is weight times score, both of which the server tells: so the weight is their quotient, exact to the
rounding of float32 wherever the score is not close to 0. Two pictures are asked about, and each concept is read from
the one whose score is further from 0. A weight of zero gives a contribution of exactly zero in both.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from salf_client.answering import answered, known_model, look_up
from salf_client.choosing import class_index
from salf_client.errors import ContractMismatchError, UnknownClassError
from salf_client.findings import Rule
from salf_client.pictures import Source
from salf_client.questions import scores_question, what_if_question
from salf_client.session import Ask, Session
from salf_client.steps import Steps
from salf_contract import Metadata


def class_rules(session: Session, ask: Ask, target: str | int | None) -> Steps[tuple[Rule, ...]]:
    """The rules of one class, or of all.

    Args:
        session: keeps the rules once they are known.
        ask: the call.
        target: a class by name or index; None for all.
    """
    was_known = session.served is not None
    served = yield from known_model(session, ask)
    try:
        wanted = _wanted(target, served.current)
    except UnknownClassError:
        if not was_known:
            raise
        served = yield from look_up(session, ask)  # a new version may have it
        wanted = _wanted(target, served.current)
    metadata = served.current
    missing = [index for index in wanted if (metadata.contract_id, index) not in session.rules]
    if missing:
        pictures = _two_pictures(metadata)
        scores = []
        for picture in pictures:
            document, found = yield from answered(session, ask, scores_question(picture, address=session.address))
            scores.append((document, found))
        for index in missing:
            contributions = []
            for picture, (document, _) in zip(pictures, scores, strict=True):
                question = what_if_question(picture, (), target=index, address=session.address)
                answer = yield from answered(session, ask, question)
                if answer.contract_id != metadata.contract_id or document.contract_id != metadata.contract_id:
                    raise ContractMismatchError(
                        f"model '{served.name}' changed its version while its rules were read; ask again"
                    )
                contributions.append(answer.contributions)
            values = np.stack([found for _, found in scores])
            weights = weights_of(np.stack(contributions), values)
            session.rules[metadata.contract_id, index] = _rule(metadata, index, weights, bias=answer.bias)
    return tuple(session.rules[metadata.contract_id, index] for index in wanted)


def _wanted(target: str | int | None, metadata: Metadata) -> Sequence[int]:
    return range(len(metadata.classes)) if target is None else (class_index(target, metadata),)


def weights_of(contributions: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Weights of one class.

    Args:
        contributions: FP32 [P,M] of P pictures.
        scores: FP32 [P,M], z of the same pictures.

    Returns:
        FP64 [M].
    """
    best = np.abs(scores).argmax(axis=0)
    columns = np.arange(scores.shape[1])
    score = scores[best, columns].astype(np.float64)
    return np.asarray(contributions[best, columns] / np.where(score == 0, 1.0, score))


def _two_pictures(metadata: Metadata) -> tuple[Source, Source]:
    """One of noise, one dark: they differ in every concept's score. The same each time."""
    shape = (metadata.preparation.height, metadata.preparation.width, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Source(noise), Source(np.full(shape, 24, dtype=np.uint8))


def _rule(metadata: Metadata, index: int, weights: NDArray[np.float64], *, bias: float) -> Rule:
    order = np.argsort(-np.abs(weights), kind="stable")
    shown = {metadata.concepts[concept]: float(weights[concept]) for concept in order if weights[concept] != 0}
    return Rule(label=metadata.classes[index], bias=bias, weights=shown)
