"""The demonstration, as `make demo` runs it."""

import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demonstration.paths import OUTPUT, ROOT
from salf_serving import Runtime


@dataclass(frozen=True)
class Run:
    """The finished demonstration.

    Attributes:
        status: exit status.
        printed: stdout.
        complaints: stderr.
        servers_seen: processes of its server that were alive on the way.
        servers_left: those that are alive afterwards.
        memory_left: its shared memory afterwards.
    """

    status: int
    printed: str
    complaints: str
    servers_seen: set[int]
    servers_left: set[int]
    memory_left: list[Path]


def processes_with(text: str) -> set[int]:
    """Living processes with a text in their command line."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                if text.encode() in (folder / "cmdline").read_bytes():
                    found.add(int(folder.name))
    return found


@pytest.fixture(scope="module")
def run(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("demo")
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen([sys.executable, "-m", "demonstration"], cwd=ROOT, stdout=out, stderr=err)
        name = f"salf_{process.pid}_"  # of its server, and of its shared memory
        seen: set[int] = set()
        deadline_s = time.monotonic() + 120
        while process.poll() is None:
            assert time.monotonic() < deadline_s, "the demonstration takes more than two minutes"
            seen |= processes_with(name)
            time.sleep(0.1)
    return Run(
        status=process.returncode,
        printed=(folder / "out").read_text(),
        complaints=(folder / "err").read_text(),
        servers_seen=seen,
        servers_left=processes_with(name),
        memory_left=list(Path("/dev/shm").glob(f"{name}*")),
    )


@pytest.fixture(scope="module")
def summary(run: Run) -> dict:
    assert run.status == 0, run.printed + run.complaints
    return json.loads((OUTPUT / "summary.json").read_text())


@pytest.mark.slow
def test_the_summary_holds_what_was_promised(summary: dict) -> None:
    assert summary.keys() == {"pictures", "server"}
    assert summary["server"]["version"].startswith("2.")
    assert summary["server"]["backend"] == "onnxruntime"
    assert len(summary["pictures"]) >= 4
    for picture in summary["pictures"]:
        assert {"label", "truth", "probability", "concepts", "latency_ms", "png"} <= picture.keys()
        assert 0 < picture["probability"] <= 1
        assert 0 < picture["latency_ms"] < 10_000
        assert len(picture["concepts"]) == 5
        for concept in picture["concepts"]:
            assert {"name", "contribution", "present"} <= concept.keys()
            assert concept["present"] == (concept["score"] > 0)
    # Most for the class: by falling contribution, those that speak for it first.
    for picture in summary["pictures"]:
        speaking = [concept["contribution"] for concept in picture["concepts"] if concept["speaks_for"]]
        assert speaking == sorted(speaking, reverse=True)
        assert all(concept["speaks_for"] for concept in picture["concepts"][: len(speaking)])


@pytest.mark.slow
def test_most_pictures_are_named_right(summary: dict) -> None:
    right = sum(picture["label"] == picture["truth"] for picture in summary["pictures"])
    assert right > len(summary["pictures"]) / 2
    assert len({picture["truth"] for picture in summary["pictures"]}) >= 4


@pytest.mark.slow
def test_every_picture_is_drawn(summary: dict) -> None:
    for picture in summary["pictures"]:
        with Image.open(OUTPUT / picture["png"]) as drawing:
            colours = drawing.convert("RGB").getcolors(maxcolors=2**24)
            pixels = np.asarray(drawing.convert("L"))
        assert min(pixels.shape) >= 300
        assert pixels.std() > 10  # neither blank nor nearly so
        # Picture, heatmaps and bars have many colours.
        assert colours is not None
        assert len(colours) > 1000


@pytest.mark.slow
def test_the_output_names_class_concepts_and_where_to_look(run: Run, summary: dict) -> None:
    printed = run.printed
    for picture in summary["pictures"]:
        block = printed[printed.index(picture["picture"]) :]
        block = block[: block.index("= logit of")]
        assert f"{picture['label']} {picture['probability']:.1%}" in block
        assert " ms" in block
        for concept in picture["concepts"]:
            assert concept["wording"] in block
            assert f"{concept['contribution']:+.2f}" in block
        assert f"demo_output/{picture['png']}" in printed
    assert "demo_output/summary.json" in printed


@pytest.mark.slow
def test_no_server_is_left(run: Run) -> None:
    assert run.servers_seen, "no tritonserver was seen: this test looks for the wrong thing"
    assert not run.servers_left
    assert not run.memory_left
