# ruff: noqa: INP001 - a backend directory of Triton's, not a package
"""Triton backend `salf_encoded`: JPEG, PNG or WebP bytes in, the explain model's answer out.

Runs inside Triton's Python stub. Beside this file lie `encoded_endpoint` and a copy of `salf_contract` (placed by
salf_serving/backend_files.py), so pictures are prepared by the code that training uses. Several instances (processes)
decode while the explain model, asked through Triton (BLS), infers; it gathers their requests into batches of its own.
"""

import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Triton's stub puts neither this folder nor PYTHONPATH into Python's path.
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import triton_python_backend_utils as pb_utils
from encoded_endpoint.asks import Ask, Pictures, pinned_version, prepare_pictures
from encoded_endpoint.explain_model import OBSERVED, ExplainModel
from encoded_endpoint.memory import keep_memory_small
from encoded_endpoint.observations import Observations
from encoded_endpoint.settings import Settings, read_settings
from encoded_endpoint.warming import warm_up
from PIL import Image, PngImagePlugin

from salf_contract import ENCODED_INPUT, ENCODED_OUTPUTS, PROBE_REQUEST_ID, Metadata, PictureRefusedError, Refusal

#: Names of Triton's status codes (the stub fills pb_utils only after it has imported this file).
_STATUS = {
    Refusal.REQUEST_CANCELLED: "CANCELLED",
    Refusal.MODEL_UNAVAILABLE: "UNAVAILABLE",
    Refusal.VERSION_NOT_SERVED: "NOT_FOUND",
    Refusal.SERVER_FAULT: "INTERNAL",
}
#: How often a request is prepared and asked, if the explain model answers by another document each time.
_MOST_TRIES = 2
_OUTPUT_NAMES = tuple(spec.name for spec in ENCODED_OUTPUTS)


class TritonPythonModel:
    """What Triton's Python stub calls: one instance of one model version."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the model's documents and limits.

        Args:
            args: `model_config` (JSON), `model_repository` (the model's directory), `model_version`, `model_name`.

        Raises:
            TritonModelException: the model cannot be served; one sentence says why.
        """
        name, version = args["model_name"], args["model_version"]
        try:
            config = json.loads(args["model_config"])
            self.full_batch = int(config.get("max_batch_size", 0))
            self._open(read_settings(config), Path(args["model_repository"]), int(version))
        except Exception as error:
            raise pb_utils.TritonModelException(f"{name} version {version}: {' '.join(str(error).split())}") from error

    def _open(self, settings: Settings, folder: Path, version: int) -> None:
        if int(np.__version__.split(".")[0]) >= 2:
            raise ValueError(f"numpy must be < 2 in the server's runtime, but is {np.__version__}")
        keep_memory_small()
        # Our own limits count, and they are checked first.
        Image.MAX_IMAGE_PIXELS = None
        PngImagePlugin.MAX_TEXT_MEMORY = PngImagePlugin.MAX_TEXT_CHUNK
        # What Pillow remarks about strangers' files belongs neither into the log nor into Python's list of seen ones.
        warnings.filterwarnings("ignore", module="PIL")
        self.limits = settings.limits
        self.explain_model = ExplainModel(folder, version)
        warm_up(self.explain_model.document.preparation)
        self.observations = Observations(self.explain_model.name, max_series=settings.concept_series)
        self.observations.start()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests that Triton batched: each is decoded on its own, all are explained in one call.

        Returns:
            One response per request, in order; a request that cannot be answered gets an error response.
        """
        started_s = time.perf_counter()
        responses: list[Any] = [None] * len(requests)
        asks: list[Ask] = []
        for index, request in enumerate(requests):
            try:
                asks.append(self._read(index, request))
            except Exception as error:  # noqa: BLE001 - whatever a request holds, the worker lives on
                responses[index] = self._refuse(error, request)
        # Triton drops what was cancelled in its queue. Asking it again is a round trip for each request: it pays only
        # when whole batches wait for a decoder.
        if sum(len(ask.encoded) for ask in asks) >= self.full_batch:
            asks = self._still_wanted(asks, responses)
        for version in {ask.version: None for ask in asks}:
            left = [ask for ask in asks if ask.version == version]
            # A second time only if the explain model changed its version, and with it the preparation, in between.
            for _ in range(_MOST_TRIES):
                left = self._answer(left, responses) if left else []
            for ask in left:
                responses[ask.index] = self._refuse(_keeps_changing(self.explain_model.name), ask.request)
        total_s = time.perf_counter() - started_s
        counted = sum(request.request_id() != PROBE_REQUEST_ID for request in requests)
        self.observations.took("total", self.explain_model.document.version, *[total_s] * counted)
        return responses

    def finalize(self) -> None:
        """Hand over the last observations."""
        self.observations.stop()

    def _read(self, index: int, request: Any) -> Ask:
        encoded, target = (_tensor(request, name) for name in (ENCODED_INPUT.name, "target"))
        if encoded.shape != target.shape or encoded.shape[1:] != (1,) or target.dtype != np.int32:
            raise PictureRefusedError(
                Refusal.REQUEST_INVALID,
                f"{ENCODED_INPUT.name} and target must be BYTES and INT32 [batch, 1], but are "
                f"{list(encoded.shape)} and {target.dtype} {list(target.shape)}",
            )
        wanted = request.requested_output_names()
        return Ask(
            index=index,
            encoded=tuple(bytes(data) for data in encoded[:, 0]),
            target=target,
            outputs=tuple(name for name in _OUTPUT_NAMES if name in wanted),
            version=pinned_version(request.parameters()),
            request=request,
        )

    def _still_wanted(self, asks: Sequence[Ask], responses: list[Any]) -> list[Ask]:
        wanted = []
        for ask in asks:
            if ask.request.is_cancelled():
                sentence = "the caller gave up before its picture was decoded"
                error = PictureRefusedError(Refusal.REQUEST_CANCELLED, sentence)
                responses[ask.index] = self._refuse(error, ask.request)
            else:
                wanted.append(ask)
        return wanted

    def _answer(self, asks: Sequence[Ask], responses: list[Any]) -> list[Ask]:
        """Decode and explain what is pinned to one version, or to none.

        Returns:
            What has to be done again, since the explain model changed meanwhile.
        """
        try:
            document = self.explain_model.described(asks[0].version)
        except PictureRefusedError as error:
            for ask in asks:
                responses[ask.index] = self._refuse(error, ask.request)
            return []
        pictures: list[Pictures] = []
        for ask in asks:
            started_s = time.perf_counter()
            try:
                pictures.append(prepare_pictures(ask, document.preparation, self.limits))
                if not ask.is_probe:
                    self.observations.took("decode", document.version, time.perf_counter() - started_s)
            except Exception as error:  # noqa: BLE001
                responses[ask.index] = self._refuse(error, ask.request)
        if not pictures:
            return []
        started_s = time.perf_counter()
        try:
            answer, answered_by = self.explain_model.ask(pictures)
            infer_s = time.perf_counter() - started_s
            if answered_by.preparation != document.preparation:
                return [one.ask for one in pictures]
        except Exception as error:  # noqa: BLE001
            for one in pictures:
                responses[one.ask.index] = self._refuse(error, one.ask.request)
            return []
        self.observations.took("infer", answered_by.version, *[infer_s] * _counted(pictures))
        return self._respond(pictures, answer, answered_by, responses)

    def _respond(
        self, pictures: Sequence[Pictures], answer: Mapping[str, Any], document: Metadata, responses: list[Any]
    ) -> list[Ask]:
        started_s, start = time.perf_counter(), 0
        for one in pictures:
            stop = start + len(one.pixels)
            rows = {"source_size": one.source_size, "crop_box": one.crop_box}
            tensors = [
                pb_utils.Tensor(name, rows[name] if name in rows else answer[name][start:stop])
                for name in one.ask.outputs
            ]
            responses[one.ask.index] = pb_utils.InferenceResponse(tensors)
            if not one.ask.is_probe:
                self.observations.explained(document, {name: answer[name][start:stop] for name in OBSERVED})
            start = stop
        answer_s = time.perf_counter() - started_s
        self.observations.took("answer", document.version, *[answer_s] * _counted(pictures))
        return []

    def _refuse(self, error: Exception, request: Any) -> Any:
        if not isinstance(error, PictureRefusedError):
            pb_utils.Logger.log_error(f"salf_encoded: {type(error).__name__}: {error}")
            error = PictureRefusedError(
                Refusal.SERVER_FAULT, f"the server failed ({type(error).__name__}); see its log"
            )
        if request.request_id() != PROBE_REQUEST_ID:
            self.observations.failed(error.code, self.explain_model.document.version)
        code = getattr(pb_utils.TritonError, _STATUS.get(error.code, "INVALID_ARG"))
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error), code))


def _keeps_changing(model: str) -> PictureRefusedError:
    return PictureRefusedError(
        Refusal.MODEL_UNAVAILABLE, f"model {model} changes how pictures must be prepared at this moment; try again"
    )


def _counted(pictures: Sequence[Pictures]) -> int:
    return sum(not one.ask.is_probe for one in pictures)


def _tensor(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise PictureRefusedError(Refusal.REQUEST_INVALID, f"input {name!r} is missing")
    return tensor.as_numpy()
