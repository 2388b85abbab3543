"""Weights that several graphs of one export hold go into files of their own, as ONNX external data (`weight_files`)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, StringStringEntryProto, TensorProto

from salf_export.errors import GraphError
from salf_export.triton_config import GRAPH_FILE, Role
from salf_export.weight_files import weights_file

#: Smaller tensors stay in the graph: nothing is gained by moving them.
LEAST_TENSOR_BYTES = 16 * 1024
#: Below this, one self-contained file is worth more than what sharing saves.
LEAST_FILE_BYTES = 4 * 1024 * 1024
#: A page, so that runtimes can map each tensor into memory.
_ALIGNMENT_BYTES = 4096


@dataclass(frozen=True)
class _Use:
    """A tensor's content, and the graphs that hold it."""

    content: bytes
    roles: frozenset[Role]


def graph_files(graphs: Mapping[Role, ModelProto]) -> dict[Role, dict[str, bytes]]:
    """The files of each graph: the graph itself, and the weights that it shares with others.

    Weights that the same graphs share are in one file, so that a model's directory holds nothing that its graph does
    not use. The same graphs give the same bytes.

    Args:
        graphs: of one export; left unchanged.

    Returns:
        Role -> file name -> content. Contents that are shared are one object.
    """
    groups: dict[frozenset[Role], list[str]] = {}
    uses = _uses(graphs)
    for digest, use in uses.items():
        if len(use.roles) > 1:
            groups.setdefault(use.roles, []).append(digest)
    moved: dict[str, tuple[str, int]] = {}  # content's digest -> file and offset
    files: dict[Role, dict[str, bytes]] = {role: {} for role in graphs}
    for roles, digests in groups.items():
        content, offsets = _joined([uses[digest].content for digest in digests])
        if len(content) < LEAST_FILE_BYTES:
            continue
        name = weights_file(content)
        moved |= {digest: (name, offset) for digest, offset in zip(digests, offsets, strict=True)}
        for role in roles:
            files[role][name] = content
    for role, graph in graphs.items():
        files[role][GRAPH_FILE] = _with_external(graph, moved).SerializeToString(deterministic=True)
    return files


def load_graph(path: Path) -> ModelProto:
    """A published model.onnx with all its weights inside.

    onnx's own loader refuses files with several names.

    Raises:
        GraphError: the graph or its weights cannot be read.
    """
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        for tensor in model.graph.initializer:
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if Path(entries["location"]).name != entries["location"]:
                raise GraphError(f"{path} names weights outside its own directory: {entries['location']}")
            with (path.parent / entries["location"]).open("rb") as file:
                file.seek(int(entries["offset"]))
                content = file.read(int(entries["length"]))
            if len(content) != int(entries["length"]):
                raise GraphError(f"{path.parent / entries['location']} is too short; publish the version again")
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = content
    except (OSError, DecodeError, KeyError) as error:
        raise GraphError(f"the graph {path} cannot be read: {error}; publish the version again") from error
    return model


def _large_tensors(graph: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    for tensor in graph.graph.initializer:
        if len(tensor.raw_data) >= LEAST_TENSOR_BYTES:
            yield hashlib.sha256(tensor.raw_data).hexdigest(), tensor


def _uses(graphs: Mapping[Role, ModelProto]) -> dict[str, _Use]:
    """Digest of a content -> who holds it, in order of first appearance."""
    uses: dict[str, _Use] = {}
    for role, graph in graphs.items():
        for digest, tensor in _large_tensors(graph):
            known = uses.get(digest)
            uses[digest] = _Use(
                tensor.raw_data if known is None else known.content,
                frozenset({role}) if known is None else known.roles | {role},
            )
    return uses


def _joined(contents: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """The contents one after the other, each on a page of its own, and where each begins."""
    joined = bytearray()
    offsets = []
    for content in contents:
        joined.extend(b"\0" * (-len(joined) % _ALIGNMENT_BYTES))
        offsets.append(len(joined))
        joined.extend(content)
    return bytes(joined), offsets


def _with_external(graph: ModelProto, moved: Mapping[str, tuple[str, int]]) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(graph)
    for digest, tensor in _large_tensors(changed):
        if digest not in moved:
            continue
        file, offset = moved[digest]
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.append(StringStringEntryProto(key=key, value=value))
    return changed
