"""What a client can be asked: each call once, without I/O, for `Client` and `AsyncClient` alike.

The first argument of each is the client's session. Users meet the others as a method's arguments, and the docstring as
the method's, so it does not name the session. `timeout_s` limits a call as a whole, retries included; None takes the
client's. Errors that any call can end with:
`ServerUnavailableError`, `ServerNotReadyError`, `ServerOverloadedError`, `DeadlineExceededError`,
`UnauthenticatedError`, `MessageTooLargeError`, `ServerFailedError`, `ModelNotFoundError`, `ModelNotChosenError`,
`VersionNotServedError`, `InvalidRequestError`, `ContractMismatchError`.
"""

# Functions within functions: their annotations would be evaluated at every call.
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from salf_client.answering import answered, known_model, of_one_endpoint
from salf_client.choosing import concept_index
from salf_client.edits import Edit, Removal
from salf_client.errors import ClientError, DeadlineExceededError, InvalidEditError
from salf_client.explaining import explain_question
from salf_client.explanation import Explanation
from salf_client.findings import ConceptMaps, EndpointHealth, Health, RegionFinding, Rule, WhatIf
from salf_client.models import ModelInfo, find_models
from salf_client.pictures import Picture, Source
from salf_client.places import Place
from salf_client.questions import maps_question, region_question, scores_question, what_if_question
from salf_client.ruling import class_rules
from salf_client.session import Ask, Session
from salf_client.steps import Steps, sent, worked


def explain(
    session: Session,
    image: Picture,
    *,
    top: int | None = None,
    target: str | int | None = None,
    timeout_s: float | None = None,
) -> Steps[Explanation]:
    """Predict a picture's class and say why.

    In steady state this is exactly one inference call. Where the server has the model NAME_encoded, the bytes of JPEG,
    PNG and WebP pictures are sent as they are; otherwise, and for pixels, the picture is prepared here.

    Args:
        image: a path, a URL, encoded bytes, a Pillow picture, UINT8 [H,W,3] (RGB) or [H,W] (grey) of any size, or what
            `salf_contract.prepare` made of one.
        top: how many concepts to show, 1..n of the model; None shows 5, or n if that is less.
        target: the class to explain, by name or index; None explains the predicted one.
        timeout_s: seconds for this call.

    Raises:
        InvalidPictureError: the picture cannot be read.
        TopOutOfRangeError: `top` is not in 1..n.
        UnknownClassError: `target` is no class of the model.
        ClientError: what else can keep an answer away, see `salf_client.calls`.
    """

    def work(ask: Ask) -> Steps[Explanation]:
        source = yield from _opened(image, ask)
        question = explain_question(source, top=top, target=target, sends_encoded=session.sends_encoded)
        return (yield from answered(session, ask, question, is_light=source.is_small))

    return session.watched("explain", work, timeout_s)


def concept_maps(session: Session, image: Picture, *, timeout_s: float | None = None) -> Steps[ConceptMaps]:
    """All concept maps of a picture: as many bytes as M maps take, so ask only if you need them all.

    Args:
        image: as for `explain`.
        timeout_s: seconds for this call.

    Raises:
        CompanionNotFoundError: the server does not have NAME_all_maps.
        InvalidPictureError: the picture cannot be read.
    """

    def work(ask: Ask) -> Steps[ConceptMaps]:
        source = yield from _opened(image, ask)
        question = maps_question(source, address=session.address)
        return (yield from answered(session, ask, question, is_light=source.is_small))

    return session.watched("concept_maps", work, timeout_s)


def region(
    session: Session,
    image: Picture,
    *,
    point: tuple[float, float] | None = None,
    box: tuple[float, float, float, float] | None = None,
    mask: NDArray[np.generic] | None = None,
    top: int = 5,
    timeout_s: float | None = None,
) -> Steps[RegionFinding]:
    """What is here? Give a point, a box or a mask, in pixels of the upright source picture.

    Args:
        image: as for `explain`.
        point: (x, y).
        box: (left, top, right, bottom).
        mask: [height,width], bool or weights of at least 0.
        top: how many concepts to name, at least 1.
        timeout_s: seconds for this call.

    Raises:
        InvalidRegionError: not exactly one of the three, or it marks nothing that the model saw.
        TopOutOfRangeError: `top` is below 1.
        CompanionNotFoundError: the server does not have NAME_what_if.
        InvalidPictureError: the picture cannot be read.
    """

    def work(ask: Ask) -> Steps[RegionFinding]:
        source = yield from _opened(image, ask)
        place = Place(point=point, box=box, mask=mask)
        question = region_question(source, place, top=top, address=session.address)
        return (yield from answered(session, ask, question, is_light=source.is_small))

    return session.watched("region", work, timeout_s)


def what_if(
    session: Session,
    image: Picture,
    edits: Edit | Removal | Sequence[Edit | Removal],
    *,
    target: str | int | None = None,
    timeout_s: float | None = None,
) -> Steps[WhatIf]:
    """What would the answer be if some concepts were stronger, weaker or gone?

    Args:
        image: as for `explain`.
        edits: `Edit`s and `Removal`s, 8 at most. Several edits of one concept add up. A removal asks for the scores
            first: one request more.
        target: the class to show contributions to, by name or index; None takes the one predicted before any edit.
        timeout_s: seconds for this call.

    Raises:
        UnknownConceptError: a concept is none of the model's.
        UnknownClassError: `target` is no class of the model.
        InvalidEditError: too many edits, or something else than edits.
        InvalidRegionError: an edit's place marks nothing that the model saw.
        CompanionNotFoundError: the server does not have NAME_what_if, or NAME_all_scores for a removal.
        InvalidPictureError: the picture cannot be read.
    """

    def work(ask: Ask) -> Steps[WhatIf]:
        source = yield from _opened(image, ask)
        listed = [edits] if isinstance(edits, Edit | Removal) else list(edits)
        for one in listed:
            if not isinstance(one, Edit | Removal):
                raise InvalidEditError(f"an edit is an Edit or a Removal, but this one is a {type(one).__name__}")
        resolved = [edit for edit in listed if isinstance(edit, Edit)]
        removals = [edit for edit in listed if isinstance(edit, Removal)]
        if removals:
            question = scores_question(source, address=session.address)
            document, scores = yield from answered(session, ask, question, is_light=source.is_small)
            # By index: what was named twice is gone once.
            removed = dict.fromkeys(concept_index(removal.concept, document) for removal in removals)
            resolved += [Edit(document.concepts[index], -max(0.0, float(scores[index]))) for index in removed]
        what = what_if_question(source, resolved, target=target, address=session.address)
        return (yield from answered(session, ask, what, is_light=source.is_small))

    return session.watched("what_if", work, timeout_s)


def rules(
    session: Session, target: str | int | None = None, *, timeout_s: float | None = None
) -> Steps[tuple[Rule, ...]]:
    """What decides each class in every picture: its weights on concepts, those that are not zero.

    Read from the model's own answers to two pictures, exact to float32's rounding, and kept: two requests for each
    class and version, and none the next time.

    Args:
        target: a class by name or index; None gives the rules of all classes, in logit order.
        timeout_s: seconds for this call.

    Raises:
        UnknownClassError: `target` is no class of the model.
        CompanionNotFoundError: the server does not have NAME_what_if or NAME_all_scores.
    """
    return session.watched("rules", lambda ask: class_rules(session, ask, target), timeout_s)


def models(session: Session, *, timeout_s: float | None = None) -> Steps[tuple[ModelInfo, ...]]:
    """The explain models that are ready, by name.

    Args:
        timeout_s: seconds for this call.
    """

    def work(ask: Ask) -> Steps[tuple[ModelInfo, ...]]:
        found = yield from of_one_endpoint(session, ask, find_models)
        return tuple(model.info() for model in found)

    return session.watched("models", work, timeout_s)


def model(session: Session, *, timeout_s: float | None = None) -> Steps[ModelInfo]:
    """The model that this client asks.

    Args:
        timeout_s: seconds for this call.
    """

    def work(ask: Ask) -> Steps[ModelInfo]:
        return (yield from known_model(session, ask)).info()

    return session.watched("model", work, timeout_s)


def health(session: Session, *, timeout_s: float | None = None) -> Steps[Health]:
    """How each endpoint is, asked now and one after the other; never raises for an endpoint that does not answer.

    Args:
        timeout_s: seconds for all of them together.
    """

    def work(ask: Ask) -> Steps[Health]:
        name = session.model or (session.served.name if session.served else None)
        endpoints = session.balancer.endpoints
        found = []
        for number, endpoint in enumerate(endpoints):
            transport = endpoint.transport
            share_s = max(0.0, ask.deadline.left_s()) / (2 * (len(endpoints) - number))
            is_ready, server, error = False, "", ""
            try:
                about = yield from sent(lambda: transport.server_metadata(timeout_s=share_s))  # noqa: B023
                server = f"{about.name} {about.version}"
                is_ready = yield from sent(lambda: transport.is_ready(name, timeout_s=share_s))  # noqa: B023
            except ClientError as reason:
                error = str(reason)
            if is_ready:
                endpoint.recovered()
            found.append(EndpointHealth(endpoint.address, is_ready, server, endpoint.in_flight, error))
        return Health(tuple(found))

    return session.watched("health", work, timeout_s)


def is_ready(session: Session, *, timeout_s: float | None = None) -> Steps[bool]:
    """Whether an endpoint, and the model if the client has a name for it, answers inferences.

    Args:
        timeout_s: seconds for all endpoints together.
    """

    def work(ask: Ask) -> Steps[bool]:
        endpoints = session.balancer.endpoints
        for number, endpoint in enumerate(endpoints):
            # One that hangs must not cost the others their turn.
            transport, share_s = endpoint.transport, ask.deadline.left_s() / (len(endpoints) - number)
            try:
                if share_s > 0 and (yield from sent(lambda: transport.is_ready(session.model, timeout_s=share_s))):  # noqa: B023
                    return True
            except ClientError:
                continue
        return False

    return session.watched("is_ready", work, timeout_s)


def _opened(image: Picture, ask: Ask) -> Steps[Source]:
    """A picture, of which what lies in a store is read already: a store that hangs must not outlast the call."""
    source = Source(image)
    if source.is_remote:
        try:
            yield from worked(lambda: source.encoded, within_s=ask.deadline.remaining_s())
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"{source.name} was not read within the {ask.deadline.timeout_s:g} s allowed; "
                f"give the client a larger timeout_s, or see whether the store answers"
            ) from error
    return source
