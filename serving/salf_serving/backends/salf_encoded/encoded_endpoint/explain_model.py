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

    def ask(self, pictures: Sequence[Pictures]) -> tuple[Answer, Metadata]:
        """Explain all pictures in one call.

        Returns:
            Output name -> array [B,...] over all pictures in order, and the document to read it by; `document` is then
            that one. Pictures prepared by a document with another preparation must be prepared and asked again.

        Raises:
            PictureRefusedError: the model is not there or fails.
        """
        wanted = OBSERVED.union(*(one.ask.outputs for one in pictures))
        first = pictures[0].ask.request
        request = pb_utils.InferenceRequest(
            model_name=self.name,
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
            raise PictureRefusedError(
                Refusal.MODEL_UNAVAILABLE, f"model {self.name} cannot be asked: {error}; try again"
            ) from error
        if response.has_error():
            failure = response.error()
            absent = failure.code() in (pb_utils.TritonError.UNAVAILABLE, pb_utils.TritonError.NOT_FOUND)
            code = Refusal.MODEL_UNAVAILABLE if absent else Refusal.SERVER_FAULT
            raise PictureRefusedError(code, f"model {self.name} failed: {failure.message()}")
        answer: Answer = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        self.document = self._document(contract_id_from_words(answer["contract_id"][0].astype(np.int32)))
        return answer, self.document

    def _document(self, contract_id: str) -> Metadata:
        if contract_id not in self._documents:
            for path in self._folder.glob(f"*/{METADATA_FILE}"):
                try:
                    document = parse_metadata(path.read_bytes())
                except (OSError, ContractError):
                    continue
                self._documents[document.contract_id] = document
        if contract_id not in self._documents:
            raise PictureRefusedError(
                Refusal.MODEL_UNAVAILABLE,
                f"model {self.name} answers by document {contract_id}, which this endpoint does not have; "
                "load both in the same version",
            )
        return self._documents[contract_id]


def _joined(arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
