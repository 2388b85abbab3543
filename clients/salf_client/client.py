"""The client: pictures in, explanations out."""

import difflib
import operator
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from salf_client.answers import ANSWER_TENSORS, answered_contract_id, read_answer
from salf_client.deadline import Deadline
from salf_client.errors import (
    ClientError,
    ContractMismatchError,
    InvalidRequestError,
    ModelNotFoundError,
    TopOutOfRangeError,
    UnknownClassError,
)
from salf_client.explanation import Explanation
from salf_client.models import ModelInfo, ServedModel, find_model, find_models
from salf_client.pictures import Picture, Source, copy_for_drawing, prepare_source, read_picture
from salf_client.transport import Transport
from salf_contract import PREDICTED_CLASS, Metadata

#: How many concepts an explanation shows unless told otherwise.
DEFAULT_TOP = 5


class Client:
    """Asks one server's model for explanations; threads may share it.

    Args:
        url: `host:port` of Triton's gRPC endpoint. Connecting waits for the first call.
        model: name of the model to ask; None asks the only one that the server has.
        timeout_s: limit for each call of a method, all its steps together.
        transport: stands in for the network; `url` is not used then.

    Raises:
        InvalidAddressError: `url` is no `host:port`.

    Example:
        >>> with Client("localhost:8001") as client:  # doctest: +SKIP
        ...     print(client.explain("boat.jpg"))
    """

    def __init__(
        self,
        url: str = "localhost:8001",
        *,
        model: str | None = None,
        timeout_s: float = 30.0,
        transport: Transport | None = None,
    ) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s must be positive, but it is {timeout_s}")
        self._transport = transport or _grpc_transport(url)
        self._model = model
        self._timeout_s = timeout_s
        self._served: ServedModel | None = None

    def explain(self, image: Picture, *, top: int | None = None, target: str | int | None = None) -> Explanation:
        """Predict a picture's class and say why.

        In steady state this is exactly one inference call.

        Args:
            image: a path, encoded bytes, a Pillow picture, or UINT8 [H,W,3] (RGB) or [H,W] (grey), any size.
            top: how many concepts to show, 1..n of the model; None shows 5, or n if that is less.
            target: the class to explain, by name or index; None explains the predicted one.

        Raises:
            InvalidPictureError: the picture cannot be read.
            TopOutOfRangeError: `top` is not in 1..n.
            UnknownClassError: `target` is no class of the model.
            ModelNotFoundError: the model is not served.
            ModelNotChosenError: the server has several models, and the client was given no name.
            ServerUnavailableError: no server answers.
            ServerNotReadyError: the server or the model is still loading, or did not load.
            DeadlineExceededError: no answer in time.
            ServerFailedError: the server failed in a way of its own.
            ContractMismatchError: the answer does not fit the model's metadata.
        """
        deadline = Deadline.after(self._timeout_s)
        source = read_picture(image)
        served = self._served or self._look_up(deadline)
        try:
            explanation = self._ask(served, source, top=top, target=target, deadline=deadline)
        except (InvalidRequestError, ModelNotFoundError):
            # The server may have changed: a new version wants another input size, or the model is gone and the
            # look-up says what there is instead. Ask again if there is a new version, and only then.
            fresh = self._look_up(deadline)
            if fresh.current.contract_id == served.current.contract_id:
                raise
            explanation = self._ask(fresh, source, top=top, target=target, deadline=deadline)
        if explanation is None:
            # Another version answered, for which this request was not prepared.
            explanation = self._ask(self._served or served, source, top=top, target=target, deadline=deadline)
        if explanation is None:
            raise ContractMismatchError(
                f"the versions of model '{served.name}' at {self._transport.address} keep changing; try again, "
                f"or see whether several servers with different models share this address"
            )
        return explanation

    def models(self) -> tuple[ModelInfo, ...]:
        """The explain models that are ready, by name.

        Raises:
            ClientError: the server cannot be asked, or a model's metadata cannot be read.
        """
        deadline = Deadline.after(self._timeout_s)
        return tuple(model.info() for model in find_models(self._transport, deadline=deadline))

    def is_ready(self) -> bool:
        """Whether the server, and the model if the client has a name for it, answers inferences."""
        try:
            return self._transport.is_ready(self._model, timeout_s=self._timeout_s)
        except ClientError:
            return False

    def close(self) -> None:
        """Give back the connection; a second call does nothing."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _look_up(self, deadline: Deadline) -> ServedModel:
        earlier = self._served
        fresh = find_model(self._transport, self._model, deadline=deadline)
        if earlier is not None and earlier.name == fresh.name:
            fresh = fresh.knowing(earlier)
        self._served = fresh
        return fresh

    def _ask(
        self, served: ServedModel, source: Source, *, top: int | None, target: str | int | None, deadline: Deadline
    ) -> Explanation | None:
        """One inference; None if a version answered that the request does not suit."""
        metadata = served.current
        shown = _checked_top(top, metadata)
        class_index = None if target is None else _class_index(target, metadata)
        prepared = prepare_source(source, metadata.preparation)
        inputs: Mapping[str, NDArray[Any]] = {
            "image": prepared.pixels[np.newaxis],
            "target": np.array([[PREDICTED_CLASS if class_index is None else class_index]], dtype=np.int32),
        }
        started_s = time.perf_counter()
        tensors = self._transport.infer(served.name, inputs, ANSWER_TENSORS, timeout_s=deadline.remaining_s())
        latency_ms = (time.perf_counter() - started_s) * 1e3
        answered = self._document_of(answered_contract_id(tensors), served, deadline=deadline)
        if not _suits(metadata, answered, class_index=class_index, top=shown):
            return None
        return read_answer(
            tensors,
            answered,
            model=served.name,
            asked_target=class_index,
            top=shown,
            prepared=prepared,
            picture=copy_for_drawing(source),
            latency_ms=latency_ms,
        )

    def _document_of(self, contract_id: str, served: ServedModel, *, deadline: Deadline) -> Metadata:
        """The document with this id; what the server has is looked up once more if it is a new one."""
        if contract_id == served.current.contract_id:
            return served.current
        if contract_id not in served.documents:
            served = self._look_up(deadline)
        document = served.documents.get(contract_id)
        if document is None:
            raise ContractMismatchError(
                f"model '{served.name}' at {self._transport.address} answered with contract id {contract_id}, which "
                f"its metadata does not describe; export it again, and let the server load the new config.pbtxt"
            )
        # The version that answers is the one to prepare the next picture by.
        self._served = served.answered_by(document)
        return document


def _suits(prepared_by: Metadata, answered_by: Metadata, *, class_index: int | None, top: int) -> bool:
    """Whether a request made for one document means the same under another."""
    if prepared_by is answered_by:
        return True
    return (
        prepared_by.preparation == answered_by.preparation
        and top <= answered_by.top
        and (class_index is None or prepared_by.classes[class_index] == _name_at(answered_by.classes, class_index))
    )


def _name_at(names: tuple[str, ...], index: int) -> str | None:
    return names[index] if index < len(names) else None


def _checked_top(top: int | None, metadata: Metadata) -> int:
    if top is None:
        return min(DEFAULT_TOP, metadata.top)
    if not 1 <= top <= metadata.top:
        raise TopOutOfRangeError(
            f"top={top}, but answers of model '{metadata.name}' hold 1 to {metadata.top} concepts; "
            f"ask for one of those, or export the model with more slots"
        )
    return operator.index(top)


def _class_index(target: str | SupportsIndex, metadata: Metadata) -> int:
    classes = metadata.classes
    if isinstance(target, str):
        if target in classes:
            return classes.index(target)
        close = difflib.get_close_matches(target, classes, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"its classes are {_listed(classes)}"
        raise UnknownClassError(f"model '{metadata.name}' has no class '{target}'; {hint}")
    index = operator.index(target)
    if not 0 <= index < len(classes):
        raise UnknownClassError(
            f"model '{metadata.name}' has no class {index}; indices go from 0 to {len(classes) - 1}: {_listed(classes)}"
        )
    return index


def _listed(names: tuple[str, ...], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _grpc_transport(url: str) -> Transport:
    from salf_client.grpc_transport import GrpcTransport  # 0.2 s of imports that other transports do not need

    return GrpcTransport(url)
