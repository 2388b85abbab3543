"""Which blocks of a backbone stay in float: chosen by what int8 in them does to explanations."""

from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto

from salf_export.blocks import Block
from salf_export.quantising import Quantiser

#: How much of the gate's allowance may be used up on the pictures that the choice is made on: other pictures vary.
AIM = 0.6


@dataclass(frozen=True)
class Choice:
    """What became of each block.

    Attributes:
        backbone: in int8, apart from `kept`.
        blocks: names of all blocks, in the graph's order.
        kept: blocks that stay in float, in the graph's order.
        alone: block name -> pressure when this block alone is int8; empty when all of them could be.
        pressure: of `backbone`; at most AIM, unless even all blocks in float are above it.
    """

    backbone: ModelProto
    blocks: tuple[str, ...]
    kept: tuple[Block, ...]
    alone: dict[str, float]
    pressure: float


def choose_blocks(quantiser: Quantiser, pressure_of: Callable[[ModelProto], float], *, aim: float = AIM) -> Choice:
    """Put as much of the backbone into int8 as explanations bear.

    If everything in int8 stays within the aim, nothing is kept. Else each block is tried alone, and blocks return to
    float, the most harmful first, until the aim is reached; then each of them, the least harmful first, goes back to
    int8 if the aim still holds.

    Args:
        quantiser: of the backbone.
        pressure_of: quantised backbone -> how much of the gate's allowance its explanations use up (see gate.pressure);
            measured on pictures that the final comparison does not use.
        aim: largest pressure to be content with.
    """
    blocks = quantiser.blocks
    names = tuple(block.name for block in blocks)
    whole = quantiser.quantise()
    pressure = pressure_of(whole)
    if pressure <= aim:
        return Choice(whole, names, (), {}, pressure)
    alone = {block: pressure_of(quantiser.quantise(keep=[o for o in blocks if o is not block])) for block in blocks}
    by_harm = sorted(blocks, key=lambda block: -alone[block])
    kept: list[Block] = []
    best = whole
    while pressure > aim and len(kept) < len(blocks):
        kept.append(by_harm[len(kept)])
        best = quantiser.quantise(keep=kept)
        pressure = pressure_of(best)
    for block in list(reversed(kept[:-1])):
        without = [other for other in kept if other is not block]
        candidate = quantiser.quantise(keep=without)
        reached = pressure_of(candidate)
        if reached <= aim:
            kept, best, pressure = without, candidate, reached
    in_order = tuple(block for block in blocks if block in kept)
    return Choice(best, names, in_order, {block.name: alone[block] for block in blocks}, pressure)
