"""Links lead somewhere, and named commands exist."""

import re

import pytest
from doc_pages import PAGES, page_text, read_blocks, without_blocks

from demonstration.paths import ROOT

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_resolve(page: str) -> None:
    targets = _LINK.findall(without_blocks(page_text(page)))
    broken = [
        target
        for target in targets
        if not target.startswith(("https://", "http://", "#"))
        and not ((ROOT / page).parent / target.partition("#")[0]).exists()
    ]
    assert not broken


def anchors(markdown: str) -> set[str]:
    """What links may name behind `#`: headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(markdown), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, "examples/README.md", "benchmarks/README.md"])
def test_links_into_pages_name_headings_that_exist(page: str) -> None:
    broken = []
    for target in _LINK.findall(without_blocks(page_text(page))):
        path, _, anchor = target.partition("#")
        other = (ROOT / page).parent / path if path else ROOT / page
        if anchor and other.suffix == ".md" and anchor not in anchors(other.read_text(encoding="utf-8")):
            broken.append(target)
    assert not broken


def test_an_anchor_is_made_of_its_heading() -> None:
    assert anchors("# Live: `salf top`, now\n\n```sh\n# no heading\n```\n## a-b c\n") == {"live-salf-top-now", "a-b-c"}


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(_LINK.findall(page_text("README.md")))
    assert {page for page in PAGES if page.startswith("docs/")} <= linked


@pytest.fixture(scope="module")
def salf_commands() -> set[str]:
    from salf_cli.main import app

    commands = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    groups = {group.name or group.typer_instance.info.name for group in app.registered_groups if group.typer_instance}
    return {name for name in commands | groups if isinstance(name, str)}


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_named_commands_exist(page: str, salf_commands: set[str]) -> None:
    text = page_text(page)
    code = " \n ".join([*re.findall(r"`([^`\n]+)`", without_blocks(text)), *(b.text for b in read_blocks(text))])
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|\s)make ([a-z]+)", code)) <= targets
    named = set(re.findall(r"(?:^|\s)salf ([a-z]+)", code))
    assert named <= salf_commands


def test_the_readme_lists_every_command(salf_commands: set[str]) -> None:
    assert set(re.findall(r"^\| `salf ([a-z]+)", page_text("README.md"), flags=re.MULTILINE)) == salf_commands


def test_the_readme_shows_a_small_picture() -> None:
    (name,) = re.findall(r"!\[[^\]]+\]\((docs/images/[^)]+)\)", page_text("README.md"))
    assert (ROOT / name).stat().st_size <= 150_000
