"""A model in this process: reads a version of a model repository and computes with ONNX Runtime; no server is asked.

To the client it is one more transport: it answers as Triton does, so that questions, checks and rows are the same.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salf_client import (
    DeadlineExceededError,
    IndexEntry,
    InvalidRequestError,
    MissingExtraError,
    ModelConfig,
    ModelNotFoundError,
    Pin,
    ServerFailedError,
    ServerMetadata,
)
from salf_contract import (
    CONFIG_FILE,
    ConfigError,
    may_be_model,
    parameters_in,
    parse_config,
    scalar,
    served_versions,
)

_BACKEND = "onnxruntime"
_GRAPH = "model.onnx"

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class _Config:
    """What is needed of a model's config.pbtxt; `served` is the version that answers unless another is asked for."""

    backend: str
    outputs: tuple[str, ...]
    parameters: Mapping[str, str]
    versions: tuple[int, ...]
    served: int
    batch: int


@dataclass(eq=False)
class _Waiting:
    """One request until it is answered."""

    key: tuple[str, int, tuple[str, ...]]
    inputs: Mapping[str, NDArray[Any]]
    answer: "asyncio.Future[Tensors]"


class LocalModel:
    """Implements `salf_client.AsyncTransport` on the files of a model repository, for one event loop.

    Requests that arrive while the graph computes are computed together, as many as config.pbtxt's `max_batch_size`.

    Args:
        repository: that `salf export` wrote.
        version: that is asked for, served or not; None leaves it to config.pbtxt.
        threads: that compute; None takes all cores.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        ModelNotFoundError: the folder cannot be read.
    """

    def __init__(self, repository: str | Path, *, version: int | None = None, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError(
                "a model in this process needs ONNX Runtime; install it with: pip install 'salf[local]'"
            ) from error
        self._onnxruntime: Any = onnxruntime
        self._folder, self._version, self._threads = Path(repository), version, threads
        if not self._folder.is_dir():
            raise ModelNotFoundError(
                f"there is no model repository {repository}; give the folder that `salf export` wrote, which must be "
                f"there on every machine that computes"
            )
        self._configs: dict[str, _Config] = {}
        self._sessions: dict[tuple[str, int], Any] = {}
        self._waiting: list[_Waiting] = []
        self._computing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="salf-model")

    @property
    def address(self) -> str:
        """The folder, for messages."""
        return str(self._folder)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 - there is no network
        pin: Pin | None = None,
    ) -> Tensors:
        """Compute one request, perhaps together with others; see `AsyncTransport.infer`."""
        version = self._config(model).served if pin is None else pin.version
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting((model, version, tuple(outputs)), inputs, future))
        if self._computing is None or self._computing.done():
            self._computing = asyncio.create_task(self._compute_all())
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError as error:
            raise DeadlineExceededError(f"model '{model}' did not answer within {timeout_s:.3g} s") from error

    async def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:  # noqa: ARG002 - files answer at once
        """What config.pbtxt says; see `Transport.model_config`."""
        config = self._config(model)
        return ModelConfig(model, config.backend, config.outputs, config.parameters)

    async def repository_index(self, *, timeout_s: float) -> tuple[IndexEntry, ...]:  # noqa: ARG002
        """Models that are ONNX graphs, in the versions that would be served, and the one that is asked for."""
        found = []
        for folder in sorted(filter(may_be_model, self._folder.iterdir())):
            try:
                if not (folder / CONFIG_FILE).is_file():
                    continue
            except OSError:  # closed: somebody else's, which need not concern the model that is asked
                continue
            config = self._config(folder.name)
            if config.backend == _BACKEND:
                there = {config.served, self._version or config.served} & set(config.versions)
                found += [IndexEntry(folder.name, version, ready=True) for version in sorted(there)]
        return tuple(found)

    async def server_metadata(self, *, timeout_s: float) -> ServerMetadata:  # noqa: ARG002
        """ONNX Runtime and its version."""
        return ServerMetadata("onnxruntime", str(self._onnxruntime.__version__))

    async def is_ready(self, model: str | None, *, timeout_s: float) -> bool:  # noqa: ARG002
        """Whether the model is there."""
        return model is None or (self._folder / model / CONFIG_FILE).is_file()

    async def close(self) -> None:
        """End the thread that computes."""
        if self._computing is not None:
            self._computing.cancel()
            await asyncio.gather(self._computing, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def _compute_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            key = self._waiting[0].key
            batch = [one for one in self._waiting if one.key == key][: self._config(key[0]).batch]
            self._waiting = [one for one in self._waiting if one not in batch]
            batch = [one for one in batch if not one.answer.done()]
            try:
                answers = await loop.run_in_executor(self._thread, self._compute, key, [one.inputs for one in batch])
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, or waits until the deadline
                answers = [error] * len(batch)
            for one, answer in zip(batch, answers, strict=True):
                if one.answer.done():
                    continue
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    def _compute(
        self, key: tuple[str, int, tuple[str, ...]], batch: Sequence[Mapping[str, NDArray[Any]]]
    ) -> list[Tensors | Exception]:
        model, version, outputs = key
        if not batch:
            return []
        session = self._session(model, version)
        try:
            feed = {name: np.concatenate([inputs[name] for inputs in batch]) for name in batch[0]}
            arrays = session.run(list(outputs), feed)
        except Exception as error:  # noqa: BLE001 - its errors have no common base
            if len(batch) > 1:  # one of them may have failed the others
                return [answer for inputs in batch for answer in self._compute(key, [inputs])]
            said = " ".join(str(error).split())
            refused = "INVALID_ARGUMENT" in said or isinstance(error, ValueError)
            kind = InvalidRequestError if refused else ServerFailedError
            return [kind(f"model '{model}' version {version} of {self._folder} failed: {said}")]
        return [
            {name: array[row : row + 1] for name, array in zip(outputs, arrays, strict=True)}
            for row in range(len(batch))
        ]

    def _session(self, model: str, version: int) -> Any:
        if (model, version) not in self._sessions:
            path = self._folder / model / str(version) / _GRAPH
            options = self._onnxruntime.SessionOptions()
            options.intra_op_num_threads = self._threads or 0
            try:
                session = self._onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise ModelNotFoundError(
                    f"{path} cannot be loaded ({' '.join(str(error).split())}); see `salf verify {self._folder}`"
                ) from error
            self._sessions[model, version] = session
        return self._sessions[model, version]

    def _config(self, model: str) -> "_Config":
        """What config.pbtxt says, read once: another version that takes over meanwhile is the next run's."""
        if model not in self._configs:
            folder = self._folder / model
            try:
                text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
                fields, named = parse_config(text), served_versions(text)
                there = _versions(folder)
            except (OSError, UnicodeDecodeError, ConfigError) as error:
                raise ModelNotFoundError(f"{self._folder} has no readable model '{model}': {error}") from error
            self._configs[model] = _Config(
                backend=scalar(fields, "backend") or "",
                outputs=tuple(
                    scalar(message, "name") or ""
                    for field in fields
                    if field.name == "output"
                    for message in field.messages
                ),
                parameters=parameters_in(text),
                versions=there,
                served=max(named or there, default=0),
                batch=max(1, int(scalar(fields, "max_batch_size") or 1)),
            )
        return self._configs[model]


def _versions(folder: Path) -> tuple[int, ...]:
    return tuple(int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal())
