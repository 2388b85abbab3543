"""Asking the explain model through Triton, and knowing by which document its answer is read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from encoded_endpoint.asks import Pictures
from salf_contract import (
    EXPLAIN_OUTPUTS,
    IMAGE_INPUT,
    METADATA_FILE,
    ContractError,
    Metadata,
    PictureRefusedError,
    Refusal,
    contract_id_from_words,
    parse_metadata,
)

#: What the endpoint itself looks at, whether or not a client wants it.
OBSERVED = frozenset({"target_class", "top_concepts", "coverage", "contract_id"})

Answer = dict[str, NDArray[np.generic]]
#: What Triton takes for "whichever version answers by default".
_NEWEST = -1
_NOT_LOADED = "is not ready"


class ExplainModel:
    """The explain model of the same name in the same server, whichever version it serves at the moment.

    Versions are loaded one model after the other, so for a while its version may be another than ours; its answers
    carry the id of the document that they follow.

    Attributes:
        name: as Triton knows it.
        document: of the version that answered last; says how pictures are prepared.
    """

    def __init__(self, folder: Path, version: int) -> None:
        """Read our version's document.

        Args:
            folder: of the encoded model.
            version: of the encoded model.

        Raises:
            ValueError: there is no document, or it cannot be read.
        """
        path = folder / str(version) / METADATA_FILE
        if not path.is_file():
            raise ValueError(f"{path} does not exist; export the model again")
        self.document = parse_metadata(path.read_bytes())
        self.name = self.document.name
        self._folder = folder
        self._documents = {self.document.contract_id: self.document}
        #: What answered last, if a version was published anew with other content.
        self._by_version: dict[int, Metadata] = {}

    def described(self, version: int | None) -> Metadata:
        """The document by which pictures for a version are prepared.

        Args:
            version: that a request is pinned to; None takes the one that answered last.

        Raises:
            PictureRefusedError: this endpoint has no document of that version.
        """
        if version is None:
            return self.document
        found = self._of_version(version)
        if found is None:
            self._read_documents()
            found = self._of_version(version)
        if found is None:
            raise self._not_served(version, "this endpoint has no document of it")
        return found

    def ask(self, pictures: Sequence[Pictures]) -> tuple[Answer, Metadata]:
        """Explain all pictures in one call.

        Args:
            pictures: all pinned to one version, or all to none.

        Returns:
            Output name -> array [B,...] over all pictures in order, and the document to read it by; `document` is then
            that one. Pictures prepared by a document with another preparation must be prepared and asked again.

        Raises:
            PictureRefusedError: the model, or the version that the pictures are pinned to, is not there or fails.
        """
        wanted = OBSERVED.union(*(one.ask.outputs for one in pictures))
        first, version = pictures[0].ask.request, pictures[0].ask.version
        request = pb_utils.InferenceRequest(
            model_name=self.name,
            model_version=_NEWEST if version is None else version,
            inputs=[
                pb_utils.Tensor(IMAGE_INPUT.name, _joined([one.pixels for one in pictures])),
                pb_utils.Tensor("target", _joined([one.ask.target for one in pictures])),
            ],
            requested_output_names=[spec.name for spec in EXPLAIN_OUTPUTS if spec.name in wanted],
            request_id=first.request_id(),
            trace=first.trace(),
        )
        try:
            response = request.exec()
        except pb_utils.TritonModelException as error:  # raised for a model that is not loaded
            if version is not None:
                raise self._not_served(version, str(error)) from error
            raise PictureRefusedError(
                Refusal.MODEL_UNAVAILABLE, f"model {self.name} cannot be asked: {error}; try again"
            ) from error
        if response.has_error():
            failure = response.error()
            # The stub calls it internal, and only its words tell that a model or version is not loaded.
            absent = _NOT_LOADED in failure.message() or failure.code() in (
                pb_utils.TritonError.UNAVAILABLE,
                pb_utils.TritonError.NOT_FOUND,
            )
            if absent and version is not None:
                raise self._not_served(version, failure.message())
            code = Refusal.MODEL_UNAVAILABLE if absent else Refusal.SERVER_FAULT
            raise PictureRefusedError(code, f"model {self.name} failed: {failure.message()}")
        answer: Answer = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        document = self._document(contract_id_from_words(answer["contract_id"][0].astype(np.int32)))
        if version is None:
            self.document = document
        else:
            self._by_version[version] = document
        return answer, document

    def _document(self, contract_id: str) -> Metadata:
        if contract_id not in self._documents:
            self._read_documents()
        if contract_id not in self._documents:
            raise PictureRefusedError(
                Refusal.MODEL_UNAVAILABLE,
                f"model {self.name} answers by document {contract_id}, which this endpoint does not have; "
                "load both in the same version",
            )
        return self._documents[contract_id]

    def _read_documents(self) -> None:
        for path in self._folder.glob(f"*/{METADATA_FILE}"):
            try:
                document = parse_metadata(path.read_bytes())
            except (OSError, ContractError):
                continue
            self._documents[document.contract_id] = document

    def _of_version(self, version: int) -> Metadata | None:
        known = (one for one in self._documents.values() if one.version == version)
        return self._by_version.get(version) or next(known, None)

    def _not_served(self, version: int, reason: str) -> PictureRefusedError:
        return PictureRefusedError(
            Refusal.VERSION_NOT_SERVED,
            f"model {self.name} version {version} cannot be asked ({reason}); let the server load it as well, "
            "or ask without a version",
        )


def _joined(arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
