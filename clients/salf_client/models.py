"""Which models a server has, and the metadata documents that name their classes and concepts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from salf_client.errors import (
    CompanionNotFoundError,
    ContractMismatchError,
    ModelNotChosenError,
    ModelNotFoundError,
    ServerNotReadyError,
    VersionNotServedError,
)
from salf_client.steps import Steps
from salf_client.transport import IndexEntry, ModelConfig
from salf_contract import EXPLAIN_OUTPUTS, Metadata, MetadataError, Preparation, metadata_in_parameters

_EXPLAIN_OUTPUT_NAMES = frozenset(spec.name for spec in EXPLAIN_OUTPUTS)


@dataclass(frozen=True)
class ModelInfo:
    """One explain model of a server, in one version: the one that the client is pinned to, else the newest.

    Attributes:
        name: as the server calls it.
        version: that the other attributes are about.
        versions: all versions that are ready, rising.
        backend: what runs it, e.g. "onnxruntime".
        classes: class names in logit order.
        concepts: concept names in index order.
        preparation: how pictures are brought to the model's size.
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
    preparation: Preparation
    top: int
    pooling: str
    accuracy: Mapping[str, float]
    contract_id: str

    @property
    def input_size(self) -> tuple[int, int]:
        """(Height, width) in pixels that pictures are prepared to."""
        return self.preparation.height, self.preparation.width


@dataclass(frozen=True)
class ServedModel:
    """What a client knows about the model it asks.

    Attributes:
        name: as the server calls it.
        backend: what runs it.
        versions: versions that are ready, rising.
        documents: contract id -> metadata, of every version seen so far.
        current: the document to prepare requests by.
        neighbours: names of all models that are ready on the server.
    """

    name: str
    backend: str
    versions: tuple[int, ...]
    documents: Mapping[str, Metadata]
    current: Metadata
    neighbours: frozenset[str] = frozenset()

    def knowing(self, earlier: "ServedModel") -> "ServedModel":
        """This state, still able to read answers of versions that were known before."""
        return replace(self, documents={**earlier.documents, **self.documents})

    def answered_by(self, document: Metadata) -> "ServedModel":
        """This state, with requests prepared by the document of the version that answers."""
        return replace(self, current=document)

    def companion(self, pattern: str, *, question: str, address: str) -> str:
        """Name of the graph beside this model that answers other questions.

        Args:
            pattern: of its name, with {name}.
            question: that it answers, for the message.
            address: of the server, for the message.

        Raises:
            CompanionNotFoundError: the server does not have it.
        """
        name = pattern.format(name=self.name)
        if name not in self.neighbours:
            raise CompanionNotFoundError(
                f"{address} serves '{self.name}', but not '{name}', which answers {question}; "
                f"export the model again with this salf, or let the server load it"
            )
        return name

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
            preparation=document.preparation,
            top=document.top,
            pooling=document.pooling,
            accuracy=dict(document.accuracy),
            contract_id=document.contract_id,
        )


class Asks(Protocol):
    """Sends requests to one endpoint after another until one answers; a session, for one call."""

    @property
    def address(self) -> str:
        """Of the endpoint or endpoints, for messages."""
        ...

    def index(self) -> Steps[tuple[IndexEntry, ...]]:
        """The repository index."""
        ...

    def config(self, model: str) -> Steps[ModelConfig]:
        """A model's configuration."""
        ...


def find_model(asks: Asks, name: str | None, *, version: int | None = None) -> Steps[ServedModel]:
    """Look a model up on the server.

    Args:
        asks: sends requests.
        name: of the model; None takes the only one there is.
        version: that requests are prepared for; None takes the newest.

    Raises:
        VersionNotServedError: this version of it is not ready.
        ModelNotFoundError: no such model, or none that salf exported.
        ModelNotChosenError: several models and no name.
        ServerNotReadyError: the model exists, but no version of it is ready.
        ContractMismatchError: its metadata is missing or cannot be read.
    """
    index = yield from asks.index()
    if name is None:
        return _pinned((yield from _only_model(asks, index)), version, asks.address)
    entries = [entry for entry in index if entry.model == name]
    if not entries:
        models = yield from find_models(asks, index)
        raise ModelNotFoundError(f"{asks.address} serves no model '{name}'; {_names_of(models)}")
    if not any(entry.ready for entry in entries):
        reasons = "; ".join(sorted({entry.reason for entry in entries if entry.reason})) or "it is not loaded"
        raise ServerNotReadyError(
            f"model '{name}' at {asks.address} is not ready ({reasons}); wait until it has loaded, "
            f"or see the server's log"
        )
    config = yield from asks.config(name)
    if not _is_explain_model(config):
        models = yield from find_models(asks, index)
        raise ModelNotFoundError(f"'{name}' at {asks.address} is no salf explain model; {_names_of(models)}")
    return _pinned(_served_model(config, index), version, asks.address)


def find_models(asks: Asks, index: Iterable[IndexEntry] | None = None) -> Steps[tuple[ServedModel, ...]]:
    """All explain models that are ready, by name.

    Args:
        asks: sends requests.
        index: the repository index, if it is at hand.
    """
    entries = tuple((yield from asks.index()) if index is None else index)
    models = []
    for name in sorted({entry.model for entry in entries if entry.ready}):
        config = yield from asks.config(name)
        if _is_explain_model(config):
            models.append(_served_model(config, entries))
    return tuple(models)


def _only_model(asks: Asks, index: Iterable[IndexEntry]) -> Steps[ServedModel]:
    entries = tuple(index)
    models = yield from find_models(asks, entries)
    if len(models) == 1:
        return models[0]
    if models:
        raise ModelNotChosenError(
            f"{asks.address} serves several models; say which one with model=...: "
            f"{', '.join(model.name for model in models)}"
        )
    if any(not entry.ready for entry in entries):
        waiting = "; ".join(sorted({f"{entry.model}: {entry.reason}" for entry in entries if not entry.ready}))
        raise ServerNotReadyError(f"no model is ready at {asks.address} ({waiting}); see the server's log")
    raise ModelNotFoundError(
        f"{asks.address} serves no model that salf exported; put one into its repository with `salf export`"
    )


def _is_explain_model(config: ModelConfig) -> bool:
    # A model that starts from features has the same outputs, but takes no pictures; older exports name no role.
    return set(config.outputs) >= _EXPLAIN_OUTPUT_NAMES and config.parameters.get("salf_role", "explain") == "explain"


def _served_model(config: ModelConfig, index: Iterable[IndexEntry]) -> ServedModel:
    entries = [entry for entry in index if entry.ready]
    try:
        documents = metadata_in_parameters(config.parameters)
    except MetadataError as error:
        raise ContractMismatchError(f"model '{config.name}': {error}") from error
    versions = sorted(entry.version for entry in entries if entry.model == config.name and entry.version is not None)
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
        neighbours=frozenset(entry.model for entry in entries),
    )


def _pinned(served: ServedModel, version: int | None, address: str) -> ServedModel:
    """The same model, with requests prepared for one version."""
    if version is None:
        return served
    found = [one for one in served.documents.values() if one.version == version and version in served.versions]
    if not found:
        raise VersionNotServedError(
            f"{address} serves '{served.name}' version {', '.join(map(str, served.versions))}, but not version "
            f"{version}, which was asked for; let it serve both, or ask for one of those"
        )
    return served.answered_by(found[0])


def _names_of(models: Iterable[ServedModel]) -> str:
    names = [model.name for model in models]
    return f"it serves: {', '.join(names)}" if names else "it serves none that salf exported"
