"""Which models a server has, and the metadata documents that name their classes and concepts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from salf_client.deadline import Deadline
from salf_client.errors import (
    ContractMismatchError,
    ModelNotChosenError,
    ModelNotFoundError,
    ServerNotReadyError,
)
from salf_client.transport import IndexEntry, ModelConfig, Transport
from salf_contract import EXPLAIN_OUTPUTS, Metadata, MetadataError, metadata_in_parameters

_EXPLAIN_OUTPUT_NAMES = frozenset(spec.name for spec in EXPLAIN_OUTPUTS)


@dataclass(frozen=True)
class ModelInfo:
    """One explain model of a server, in its newest served version.

    Attributes:
        name: as the server calls it.
        version: newest version that is ready.
        versions: all versions that are ready, rising.
        backend: what runs it, e.g. "onnxruntime".
        classes: class names in logit order.
        concepts: concept names in index order.
        input_size: (height, width) in pixels that pictures are prepared to.
        top: how many concepts an answer holds at most.
        pooling: "average" or "softmax".
        accuracy: figures from the model card, 0..1.
        contract_id: hash of the metadata document, 32 hex digits.
    """

    name: str
    version: int
    versions: tuple[int, ...]
    backend: str
    classes: tuple[str, ...]
    concepts: tuple[str, ...]
    input_size: tuple[int, int]
    top: int
    pooling: str
    accuracy: Mapping[str, float]
    contract_id: str


@dataclass(frozen=True)
class ServedModel:
    """What a client knows about the model it asks.

    Attributes:
        name: as the server calls it.
        backend: what runs it.
        versions: versions that are ready, rising.
        documents: contract id -> metadata, of every version seen so far.
        current: the document to prepare requests by.
    """

    name: str
    backend: str
    versions: tuple[int, ...]
    documents: Mapping[str, Metadata]
    current: Metadata

    def knowing(self, earlier: "ServedModel") -> "ServedModel":
        """This state, still able to read answers of versions that were known before."""
        return replace(self, documents={**earlier.documents, **self.documents})

    def answered_by(self, document: Metadata) -> "ServedModel":
        """This state, with requests prepared by the document of the version that answers."""
        return replace(self, current=document)

    def info(self) -> ModelInfo:
        """The public view of this model."""
        document = self.current
        return ModelInfo(
            name=self.name,
            version=document.version,
            versions=self.versions,
            backend=self.backend,
            classes=document.classes,
            concepts=document.concepts,
            input_size=(document.preparation.height, document.preparation.width),
            top=document.top,
            pooling=document.pooling,
            accuracy=dict(document.accuracy),
            contract_id=document.contract_id,
        )


def find_model(transport: Transport, name: str | None, *, deadline: Deadline) -> ServedModel:
    """Look a model up on the server.

    Args:
        transport: the server.
        name: of the model; None takes the only one there is.
        deadline: for all calls together.

    Raises:
        ModelNotFoundError: no such model, or none that salf exported.
        ModelNotChosenError: several models and no name.
        ServerNotReadyError: the model exists, but no version of it is ready.
        ContractMismatchError: its metadata is missing or cannot be read.
    """
    index = transport.repository_index(timeout_s=deadline.remaining_s())
    if name is None:
        return _only_model(transport, index, deadline=deadline)
    entries = [entry for entry in index if entry.model == name]
    if not entries:
        models = find_models(transport, index, deadline=deadline)
        raise ModelNotFoundError(f"{transport.address} serves no model '{name}'; {_names_of(models)}")
    if not any(entry.ready for entry in entries):
        reasons = "; ".join(sorted({entry.reason for entry in entries if entry.reason})) or "it is not loaded"
        raise ServerNotReadyError(
            f"model '{name}' at {transport.address} is not ready ({reasons}); wait until it has loaded, "
            f"or see the server's log"
        )
    config = transport.model_config(name, timeout_s=deadline.remaining_s())
    if not _is_explain_model(config):
        models = find_models(transport, index, deadline=deadline)
        raise ModelNotFoundError(f"'{name}' at {transport.address} is no salf explain model; {_names_of(models)}")
    return _served_model(config, entries)


def find_models(
    transport: Transport, index: Iterable[IndexEntry] | None = None, *, deadline: Deadline
) -> tuple[ServedModel, ...]:
    """All explain models that are ready, by name.

    Args:
        transport: the server.
        index: its repository index, if it is at hand.
        deadline: for all calls together.
    """
    entries = tuple(transport.repository_index(timeout_s=deadline.remaining_s()) if index is None else index)
    ready = sorted({entry.model for entry in entries if entry.ready})
    configs = [transport.model_config(name, timeout_s=deadline.remaining_s()) for name in ready]
    return tuple(
        _served_model(config, [entry for entry in entries if entry.model == config.name])
        for config in configs
        if _is_explain_model(config)
    )


def _only_model(transport: Transport, index: Iterable[IndexEntry], *, deadline: Deadline) -> ServedModel:
    entries = tuple(index)
    models = find_models(transport, entries, deadline=deadline)
    if len(models) == 1:
        return models[0]
    if models:
        raise ModelNotChosenError(
            f"{transport.address} serves several models; say which one with model=...: "
            f"{', '.join(model.name for model in models)}"
        )
    if any(not entry.ready for entry in entries):
        waiting = "; ".join(sorted({f"{entry.model}: {entry.reason}" for entry in entries if not entry.ready}))
        raise ServerNotReadyError(f"no model is ready at {transport.address} ({waiting}); see the server's log")
    raise ModelNotFoundError(
        f"{transport.address} serves no model that salf exported; put one into its repository with `salf export`"
    )


def _is_explain_model(config: ModelConfig) -> bool:
    # A model that starts from features has the same outputs, but takes no pictures; older exports name no role.
    return set(config.outputs) >= _EXPLAIN_OUTPUT_NAMES and config.parameters.get("salf_role", "explain") == "explain"


def _served_model(config: ModelConfig, entries: Iterable[IndexEntry]) -> ServedModel:
    try:
        documents = metadata_in_parameters(config.parameters)
    except MetadataError as error:
        raise ContractMismatchError(f"model '{config.name}': {error}") from error
    versions = sorted(entry.version for entry in entries if entry.ready and entry.version is not None)
    described = [version for version in versions if version in documents]
    if not described:
        raise ContractMismatchError(
            f"model '{config.name}' serves version {', '.join(map(str, versions)) or '?'}, but its config.pbtxt "
            f"describes {', '.join(map(str, sorted(documents))) or 'none'}; export the model again"
        )
    return ServedModel(
        name=config.name,
        backend=config.backend,
        versions=tuple(versions),
        documents={document.contract_id: document for document in documents.values()},
        current=documents[described[-1]],
    )


def _names_of(models: Iterable[ServedModel]) -> str:
    names = [model.name for model in models]
    return f"it serves: {', '.join(names)}" if names else "it serves none that salf exported"
