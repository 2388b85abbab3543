"""From a question to an answer whose names are right, whichever version of the model answered.

A server may load another version between two requests, and several endpoints may serve different ones. Every answer
carries the id of its metadata document: it is read by that document, and asked for again if the request was prepared
for one that means something else.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from numpy.typing import NDArray

from salf_client.answers import answered_contract_id
from salf_client.balancing import Endpoint
from salf_client.errors import (
    ClientError,
    ContractMismatchError,
    InvalidRequestError,
    ModelNotFoundError,
    ServerNotReadyError,
    TopOutOfRangeError,
    UnknownClassError,
    UnknownConceptError,
    VersionNotServedError,
)
from salf_client.models import ServedModel, find_model
from salf_client.session import Ask, Session
from salf_client.steps import Steps, paused, worked
from salf_client.transport import AnyTransport, IndexEntry, ModelConfig, Pin, Tensors
from salf_contract import Metadata

T = TypeVar("T")


@dataclass(slots=True)
class Request(Generic[T]):
    """One inference, prepared for one version of a model.

    Attributes:
        model: that is asked: the explain model, or one beside it.
        inputs: tensor name -> array [1, ...].
        outputs: tensors wanted, `contract_id` among them.
        suits: whether the request means the same to the version that this document describes.
        read: makes the answer of (tensors, document, latency_ms).
        refused: what a refusal of these tensors means; by default what the server says.
        version_parameter: of a model that asks the explain model in its turn: carries the version that is pinned.
    """

    model: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: Sequence[str]
    suits: Callable[[Metadata], bool]
    read: Callable[[Tensors, Metadata, float], T]
    refused: Callable[[InvalidRequestError], ClientError] = lambda error: error
    version_parameter: str | None = None


#: Prepares a request for what is served; may read and decode pictures.
Question: TypeAlias = Callable[[ServedModel], Request[T]]

#: What is not there by what the client knows of the model, which a new version may have.
NOT_KNOWN = (UnknownClassError, UnknownConceptError, TopOutOfRangeError)


@dataclass(frozen=True)
class SessionAsks:
    """Sends the requests of a look-up; implements `models.Asks`.

    Attributes:
        session: of the client.
        ask: the call.
        endpoint: the one to ask: index and configurations must be of the same server.
    """

    session: Session
    ask: Ask
    endpoint: Endpoint

    @property
    def address(self) -> str:
        """Of the endpoint, for messages."""
        return self.endpoint.address

    def index(self) -> Steps[tuple[IndexEntry, ...]]:
        """The repository index."""
        answer, _ = yield from self.session.request(
            self.ask,
            lambda transport, timeout_s, _: transport.repository_index(timeout_s=timeout_s),
            only=self.endpoint,
        )
        return answer

    def config(self, model: str) -> Steps[ModelConfig]:
        """A model's configuration."""
        answer, _ = yield from self.session.request(
            self.ask,
            lambda transport, timeout_s, _: transport.model_config(model, timeout_s=timeout_s),
            only=self.endpoint,
        )
        return answer


def known_model(session: Session, ask: Ask) -> Steps[ServedModel]:
    """The model to ask, looked up if it is not known yet."""
    return session.served or (yield from look_up(session, ask))


def look_up(session: Session, ask: Ask, *, prefer: Endpoint | None = None) -> Steps[ServedModel]:
    """See what is served now, by one endpoint after the other until one serves the model.

    Args:
        session: of the client.
        ask: the call.
        prefer: the endpoint to ask first.
    """
    earlier = session.served
    fresh = yield from of_one_endpoint(
        session, ask, lambda asks: find_model(asks, session.model, version=session.version), prefer=prefer
    )
    if earlier is not None and earlier.name == fresh.name:
        fresh = fresh.knowing(earlier)
    session.served = fresh
    return fresh


def of_one_endpoint(
    session: Session, ask: Ask, work: Callable[[SessionAsks], Steps[T]], *, prefer: Endpoint | None = None
) -> Steps[T]:
    """Do work whose requests all go to the same endpoint; if one fails, all of it at another.

    Args:
        session: of the client.
        ask: the call.
        work: asks the endpoint.
        prefer: the endpoint to ask first.
    """
    failed: list[Endpoint] = []
    while True:
        endpoint = prefer if prefer is not None and not failed else (yield from session.ready_endpoint(ask, failed))
        try:
            return (yield from work(SessionAsks(session, ask, endpoint)))
        except ClientError as error:
            failed.append(endpoint)
            if not session.balancer.has_choice:
                raise  # its requests were repeated already
            pause_s = session.pause_before_retry(error, ask.deadline, attempt=len(failed), failed=failed)
            if pause_s is None:
                raise
        if pause_s > 0:
            yield from paused(pause_s)


def answered(session: Session, ask: Ask, question: Question[T], *, is_light: bool = False) -> Steps[T]:
    """Ask a question until a version answers that it was prepared for.

    Args:
        session: of the client.
        ask: the call.
        question: prepares the request.
        is_light: whether preparing takes so little time that no thread is worth it.

    Raises:
        ClientError: what kept the answer away.
    """
    was_known = session.served is not None
    served = yield from known_model(session, ask)
    try:
        answer = yield from _once(session, ask, served, question, is_light=is_light)
    except (InvalidRequestError, ModelNotFoundError, ServerNotReadyError, *NOT_KNOWN) as error:
        if session.version is None and isinstance(error, ServerNotReadyError):
            raise
        if isinstance(error, NOT_KNOWN) and not was_known:
            raise
        # The server may have changed: a new version wants another input size or has what was asked for, or the model
        # is gone and the look-up says what there is instead. Ask again if there is something new, and only then.
        fresh = yield from look_up(session, ask, prefer=ask.last)
        if (fresh.current.contract_id, fresh.neighbours) == (served.current.contract_id, served.neighbours):
            raise
        answer = yield from _once(session, ask, fresh, question, is_light=is_light, first=ask.last)
    if answer is None:
        # Another version answered, for which this request was not prepared.
        current = session.served or served
        answer = yield from _once(session, ask, current, question, is_light=is_light, first=ask.last)
    if answer is None:
        raise ContractMismatchError(
            f"the versions of model '{served.name}' at {session.address} keep changing; try again, "
            f"or see whether several servers with different models share this address"
        )
    return answer


def _once(
    session: Session,
    ask: Ask,
    served: ServedModel,
    question: Question[T],
    *,
    is_light: bool,
    first: Endpoint | None = None,
) -> Steps[T | None]:
    """One inference; None if a version answered that the request does not suit."""
    begun_s = time.perf_counter()
    request = question(served) if is_light else (yield from worked(lambda: question(served)))

    # What is not needed is left out: transports of users may know neither.
    extra: dict[str, Any] = {}
    if session.version is not None:
        extra["pin"] = Pin(session.version, request.version_parameter)

    def send(transport: AnyTransport, timeout_s: float, headers: Mapping[str, str] | None) -> Any:
        more = extra if headers is None else {**extra, "headers": headers}
        return transport.infer(request.model, request.inputs, request.outputs, timeout_s=timeout_s, **more)

    started_s = time.perf_counter()
    ask.watched.took("prepare", started_s - begun_s)
    try:
        tensors, endpoint = yield from session.request(ask, send, first=first)
    except InvalidRequestError as error:
        raise request.refused(error) from error.__cause__  # what is refused as it is must not become its own cause
    answered_s = time.perf_counter()
    ask.watched.took("infer", answered_s - started_s)
    document = served.current
    contract_id = answered_contract_id(tensors)
    if contract_id != document.contract_id and session.version is not None:
        raise VersionNotServedError(
            f"{endpoint.address} was asked for '{served.name}' version {session.version} (contract "
            f"{document.contract_id}), but answered by contract {contract_id}; update that server's salf, or see "
            f"whether servers with different models share this address"
        )
    if contract_id != document.contract_id:
        document = yield from _document_of(contract_id, session, ask, served, endpoint=endpoint)
        if not request.suits(document):
            return None
    answer = request.read(tensors, document, (answered_s - started_s) * 1e3)
    ask.watched.took("read", time.perf_counter() - answered_s)
    return answer


def _document_of(
    contract_id: str, session: Session, ask: Ask, served: ServedModel, *, endpoint: Endpoint
) -> Steps[Metadata]:
    """The document with this id; what the endpoint has is looked up once more if it is a new one."""
    if contract_id not in served.documents:
        served = yield from look_up(session, ask, prefer=endpoint)
    document = served.documents.get(contract_id)
    if document is None:
        raise ContractMismatchError(
            f"model '{served.name}' at {endpoint.address} answered with contract id {contract_id}, which "
            f"its metadata does not describe; export it again, and let the server load the new config.pbtxt"
        )
    # The version that answers is the one to prepare the next picture by.
    session.served = served.answered_by(document)
    return document
