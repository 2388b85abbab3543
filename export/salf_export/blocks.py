"""A network's blocks: the runs of nodes between places where everything that goes on is one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

#: Operators whose weights int8 speeds up; a block without any of them is not worth a choice of its own.
HEAVY = frozenset({"Conv", "Gemm", "MatMul"})
_ACTIVATIONS = frozenset({"Relu", "Clip", "Gelu", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Sigmoid", "PRelu"})


@dataclass(frozen=True)
class Block:
    """Nodes that are quantised, or stay in float, together.

    Attributes:
        name: "3: Conv_16 .. Relu_22": its place, first and last node.
        nodes: names of its nodes, in the graph's order.
    """

    name: str
    nodes: tuple[str, ...]


def blocks_of(backbone: ModelProto) -> tuple[Block, ...]:
    """Cut a backbone where one tensor alone carries everything: after its stem, and after each residual block.

    What comes before the first heavy node (normalisation of pixels) belongs to no block. Runs without heavy nodes go
    with the block before them.

    Args:
        backbone: one input, one output; nodes in the order of execution.

    Returns:
        At least one block, in the graph's order; their nodes do not overlap.
    """
    computed = _computed_nodes(backbone)
    runs: list[list[NodeProto]] = []
    for run in _runs(computed, output=backbone.graph.output[0].name):
        is_heavy = any(node.op_type in HEAVY for node in run)
        if is_heavy:
            runs.append(run)
        elif runs:
            runs[-1] += run
    return tuple(
        Block(f"{place}: {_short(run[0])} .. {_short(run[-1])}", tuple(node.name for node in run))
        for place, run in enumerate(runs)
    )


def _computed_nodes(backbone: ModelProto) -> list[NodeProto]:
    """Nodes that depend on the input; what is computed from constants alone carries nothing."""
    reached = {value.name for value in backbone.graph.input}
    nodes = []
    for node in backbone.graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
            nodes.append(node)
    return nodes


def _runs(nodes: Sequence[NodeProto], *, output: str) -> list[list[NodeProto]]:
    """Split a chain of nodes behind every node after which exactly one tensor is still needed."""
    last_use = {name: place for place, node in enumerate(nodes) for name in node.input}
    last_use[output] = len(nodes)
    live: set[str] = set()
    runs: list[list[NodeProto]] = [[]]
    for place, node in enumerate(nodes):
        live.update(name for name in node.output if name in last_use)
        live = {name for name in live if last_use[name] > place}
        runs[-1].append(node)
        # A convolution and the activation behind it are one step: cut behind the activation.
        follower = nodes[place + 1].op_type if place + 1 < len(nodes) else ""
        if len(live) == 1 and follower not in _ACTIVATIONS:
            runs.append([])
    return [run for run in runs if run]


def _short(node: NodeProto) -> str:
    """`backbone/16_Conv` -> `Conv_16`."""
    place, _, kind = node.name.rpartition("/")[2].partition("_")
    return f"{kind}_{place}"
