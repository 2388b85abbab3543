"""Pieces of nginx's configuration, as lines."""

from collections.abc import Iterable


def map_block(source: str, target: str, *cases: str) -> list[str]:
    """A variable that depends on others."""
    return [f"map {source} {target} {{", *indented(f"{case};" for case in cases), "}"]


def indented(lines: Iterable[str]) -> list[str]:
    """Lines within a block."""
    return [f"    {line}" if line else "" for line in lines]
