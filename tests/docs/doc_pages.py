"""The pages of the documentation, and the blocks in them."""

import re
from dataclasses import dataclass, field

from demonstration.paths import ROOT

PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))

_FENCE = re.compile(r"^```(\S*)\s*$")
_MARK = re.compile(r"^<!-- (not run|file|output)(?:: (.+?))? -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: after the opening fence.
        line: of the opening fence, from 1.
        text: between the fences.
        marks: comments directly above, such as {"not run": "installs packages"}.
    """

    language: str
    line: int
    text: str
    marks: dict[str, str] = field(default_factory=dict)


def read_blocks(markdown: str) -> list[Block]:
    blocks: list[Block] = []
    opened: tuple[str, int] | None = None
    inside: list[str] = []
    marks: dict[str, str] = {}
    for number, line in enumerate(markdown.splitlines(), start=1):
        if opened is None:
            if fence := _FENCE.match(line):
                opened, inside = (fence[1], number), []
            elif mark := _MARK.match(line):
                marks[mark[1]] = mark[2] or ""
            else:
                marks = {}
        elif line == "```":
            blocks.append(Block(opened[0], opened[1], "\n".join(inside) + "\n", marks))
            opened, marks = None, {}
        else:
            inside.append(line)
    assert opened is None, f"the block that opens in line {opened and opened[1]} is never closed"
    return blocks


def page_text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_blocks(markdown: str) -> str:
    return re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
