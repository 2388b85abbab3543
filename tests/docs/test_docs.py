"""What the documentation says is run, compared and looked up."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from demonstration.paths import CHECKPOINT, ROOT
from salf_serving import RunningServer

PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
SLOW_PAGES = {"docs/ml-engineer.md", "docs/model-repository.md"}
RUN = {"python", "sh"}
SHOWN = {"text", "json", "yaml"}

#: Blocks that no test can run: (page, its first line, why). Whoever adds one has to add it here.
NOT_RUN = {
    (
        "docs/deployment.md",
        "docker build --target cpu --tag salf:cpu .",
        "needs a container engine",
    ),
    (
        "docs/deployment.md",
        "docker run --rm --read-only --tmpfs /tmp --shm-size 512m --cap-drop ALL --security-opt no-new-privileges \\",
        "needs a container engine",
    ),
    ("docs/deployment.md", "docker compose --file deploy/compose.yaml up --build", "needs a container engine"),
    ("docs/deployment.md", "kubectl create secret tls salf-tls --cert=tls.crt --key=tls.key", "needs a cluster"),
    ("docs/deployment.md", "kubectl apply --filename deploy/kserve/serving-runtime.yaml", "needs a cluster"),
    ("README.md", "make demo", "builds environments"),
    ("docs/service-developer.md", "pip install '.[plot]'", "installs packages"),
    ("docs/service-developer.md", "salf serve --install model_repository", "serves until it is stopped"),
    ("docs/service-developer.md", "pip install fastapi python-multipart uvicorn", "serves until it is stopped"),
    (
        "docs/data-team.md",
        "salf score s3://bucket/photos --out s3://bucket/scored --engine ray --ray-address head:6379 \\",
        "needs a cluster",
    ),
    ("docs/operator.md", "pip install '.[serve]'", "installs packages"),
    (
        "docs/service-developer.md",
        "grpcurl -plaintext -import-path . -proto grpc_service.proto -d @ \\",
        "needs grpcurl and the protocol's file",
    ),
    ("docs/operator.md", "salf serve model_repository", "serves until it is stopped"),
    (
        "docs/operator.md",
        "python -m salf_serving.backend_files /opt/tritonserver/backends salf_encoded",
        "needs Triton's container",
    ),
    (
        "docs/operator.md",
        "salf serve model_repository --front-settings front.toml --port 8001 --status-port 8003 --metrics-port 8002",
        "serves until it is stopped",
    ),
    (
        "docs/metrics.md",
        "salf serve model_repository --front --traces http://127.0.0.1:4318/v1/traces --traces-share 0.01",
        "serves until it is stopped",
    ),
    (
        "docs/capacity.md",
        "SALF_CAPACITY_REPOSITORY=/models python -m benchmarks capacity --json capacity.json",
        "takes two minutes",
    ),
    ("docs/ml-engineer.md", "pip install '.[export]'", "installs packages"),
    ("docs/ml-engineer.md", "salf serve --install my_repository", "serves until it is stopped"),
    ("docs/ml-engineer.md", "make train", "takes minutes"),
    (
        "docs/backbones-and-encoders.md",
        "from salf_training.embeddings import cached_prompt_embeddings, iter_local_similarities",
        "needs an encoder's weights and pictures",
    ),
    (
        "docs/concept-sets.md",
        "salf concepts propose --classes classes.txt --endpoint https://api.openai.com/v1 \\",
        "asks a language model",
    ),
    (
        "docs/concept-sets.md",
        "salf concepts filter proposed.txt --classes classes.txt \\",
        "fetches CLIP's weights",
    ),
    (
        "docs/configurations.md",
        "salf train --config training/configs/cub200_resnet18.yaml --dry-run",
        "measures speeds for half a minute, and exits with 1 without the data",
    ),
    (
        "docs/configurations.md",
        "salf train --config SETTINGS --out runs/a --concepts-per-class 5,10,30",
        "needs your data",
    ),
    (
        "docs/evaluation.md",
        "salf evaluate demonstration/checkpoint --data runs/demonstration/held_out \\",
        "needs a training run's data",
    ),
    (
        "docs/importing.md",
        "salf import published/cub --layout label-free --backbone resnet18 --weights resnet18.pth --out runs/cub",
        "needs a published folder",
    ),
    (
        "docs/tensorrt.md",
        'docker run --rm --gpus all -v "$PWD":/work -w /work nvcr.io/nvidia/tritonserver:24.12-py3 \\',
        "needs a GPU and NVIDIA's image",
    ),
    ("docs/tensorrt.md", "from pathlib import Path", "needs a GPU and tensorrt"),
}

#: How far a number in documented output may lie from the real one: other processors round differently.
NUMBER_TOLERANCE = 0.021

_FENCE = re.compile(r"^```(\S*)\s*$")
_MARK = re.compile(r"^<!-- (not run|file|output)(?:: (.+?))? -->$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


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


@pytest.fixture
def model_is_committed() -> bool:
    """Whether the checkpoint is the one that README speaks of; after `make train` it may be another."""
    said = re.search(r"weights `([0-9a-f]{12})`", page_text("README.md"))
    assert said is not None, "README.md must say which weights its figures are of"
    return json.loads((CHECKPOINT / "card.json").read_text())["weights_sha256"].startswith(said[1])


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that looks like the clone to relative paths, where blocks may write what they like."""
    for name in ("demonstration", "model_repository", "benchmarks", "docs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    return tmp_path


def run_block(block: Block, folder: Path, server: RunningServer) -> str:
    """Run a block against the server; returns what it printed."""
    assert server.metrics_address is not None
    text = block.text.replace("localhost:8001", server.grpc_address).replace("127.0.0.1:8002", server.metrics_address)
    if block.language == "python":
        script = folder / f".block-{block.line}.py"
        script.write_text(text)
        command = [sys.executable, str(script)]
    else:
        command = ["bash", "-euo", "pipefail", "-c", text]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SALF_URL": server.grpc_address,
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what a block started ends with it
    )
    try:
        printed, complaints = process.communicate(timeout=240)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"the block of line {block.line} failed:\n{printed}{complaints}"
    return printed


def assert_same_output(said: str, printed: str, *, where: str) -> None:
    """The same words, and numbers that differ by no more than rounding."""
    said, printed = said.strip(), printed.strip()
    words = [" ".join(_NUMBER.sub("#", text).split()) for text in (said, printed)]
    assert words[0] == words[1], f"{where} shows other output than the block above prints:\n{printed}"
    for shown, real in zip(_NUMBER.findall(said), _NUMBER.findall(printed), strict=True):
        # Percentages and whole numbers are printed without decimals.
        tolerance = NUMBER_TOLERANCE if "." in shown else 1.0
        assert abs(float(shown) - float(real)) <= tolerance, f"{where} shows {shown}, the block prints {real}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if page in SLOW_PAGES else page for page in PAGES]
)
def test_every_block_of_a_page_runs(
    page: str, triton_server: RunningServer, elsewhere: Path, model_is_committed: bool
) -> None:
    printed: str | None = None
    for block in read_blocks(page_text(page)):
        where = f"{page}, line {block.line}"
        if "not run" in block.marks:
            printed = None
        elif "file" in block.marks:
            (elsewhere / block.marks["file"]).write_text(block.text)
        elif "output" in block.marks:
            assert printed is not None, f"{where} shows output, but no block above it was run"
            if model_is_committed:
                assert_same_output(block.text, printed, where=where)
            else:
                assert len(printed.split()) > 0
        elif block.language in RUN:
            printed = run_block(block, elsewhere, triton_server)
        else:
            assert block.language in SHOWN, f"{where}: {block.language or 'a block without language'} is not run"


def test_exactly_the_known_blocks_are_not_run() -> None:
    found = {
        (page, block.text.splitlines()[0].partition("#")[0].strip(), block.marks["not run"])
        for page in PAGES
        for block in read_blocks(page_text(page))
        if "not run" in block.marks
    }
    assert found == NOT_RUN


def test_a_block_is_found_with_its_marks() -> None:
    text = "<!-- not run: too long -->\n```sh\nmake all\n```\n\n<!-- output -->\nwords\n```text\nx\n```\n"
    assert read_blocks(text) == [
        Block("sh", 2, "make all\n", {"not run": "too long"}),
        Block("text", 8, "x\n", {}),
    ]


def test_other_output_is_noticed() -> None:
    assert_same_output("boat  +1.23\n", "boat  +1.24", where="here")
    for said in ("boat +1.28", "ship +1.24", "boat +1.24 more"):
        with pytest.raises(AssertionError, match="here shows"):
            assert_same_output(said, "boat +1.24", where="here")


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


def table_rows(markdown: str, heading: str) -> dict[str, str]:
    """First column -> second column, as plain text, of the table that begins with a heading row."""
    lines = markdown.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(heading))
    rows: dict[str, str] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0]] = cells[1]
    return rows


def figures_of_the_card() -> dict[str, str]:
    """README's rows about the demonstration model, from the committed model card."""
    card = json.loads((CHECKPOINT / "card.json").read_text())
    measured = card["evaluation"]
    found = measured["localisation"]
    curve = " / ".join(f"{point['accuracy']:.1%}" for point in measured["nec_curve"])
    return {
        "right on held-out pictures, backbone's own classifier": f"{measured['backbone_accuracy']:.1%}",
        "right on held-out pictures, SALF-CBM": f"{measured['accuracy']:.1%}",
        "concepts per class (NEC) of that model": f"{card['concepts_per_class']:.1f}",
        "right with at most 1 / 2 / 3 / 5 / 10 / 30 concepts per class": curve,
        "right with all concepts (dense)": f"{measured['dense_accuracy']:.1%}",
        "map's maximum on the object, concepts that decide the class": f"{found['deciding_concepts']:.1%}",
        "map's maximum on the object, all drawn objects": f"{found['all_objects']:.1%}",
        "baselines for that: centre point / random point": (
            f"{found['centre_point']:.1%} / {found['random_point']:.1%}"
        ),
        "evidence that says the truth about its picture": f"{measured['naming']['true']:.1%}",
        "evidence called present that lies on what it names": f"{measured['naming']['well_placed']:.1%}",
    }


def figures_of_the_evaluation() -> dict[str, str]:
    """README's rows about class maps, from the committed evaluation.json."""
    found = json.loads((ROOT / "demonstration" / "evaluation.json").read_text())["segmentation"]
    return {
        f"class maps against masks, {method}: pixel accuracy / mIoU / mAP": " / ".join(
            f"{found[method][name]:.1%}" for name in ("pixel_accuracy", "mean_iou", "average_precision")
        )
        for method in ("SALF-CBM", "Grad-CAM", "Integrated gradients")
    }


def figures_of_the_benchmarks() -> dict[str, str]:
    """README's rows about cost, from what benchmarks/README.md documents."""
    text = page_text("benchmarks/README.md")

    def documented(pattern: str) -> str:
        found = re.search(pattern, text)
        assert found is not None, f"benchmarks/README.md has no {pattern}"
        return found[1]

    return {
        "explained answer over bare prediction, time, batch 1": documented(
            r"`explain_over_logits_b1`[^|]*\| ([\d.]+) \|"
        ),
        "explained answer over bare prediction, time, batch 8": documented(
            r"`explain_over_logits_b8`[^|]*\| ([\d.]+) \|"
        ),
        "the same if all maps were computed, batch 8": documented(r"`all_maps_over_logits_b8`[^|]*\| ([\d.]+) \|"),
        "bytes of an explained answer": documented(r"`default_answer_bytes` ([\d,]+)"),
        "bytes of an answer with all maps": documented(r"`all_maps_bytes` ([\d,]+)"),
    }


def test_the_readme_shows_no_other_figures_than_card_and_benchmarks(model_is_committed: bool) -> None:
    shown = table_rows(page_text("README.md"), "| figure |")
    card, benchmarks = figures_of_the_card(), figures_of_the_benchmarks() | figures_of_the_evaluation()
    assert shown.keys() == card.keys() | benchmarks.keys()
    assert {name: shown[name] for name in benchmarks} == benchmarks
    if model_is_committed:
        assert {name: shown[name] for name in card} == card
    else:
        # Retrained: the same seed promises the same accuracy to within a point.
        name = "right on held-out pictures, SALF-CBM"
        assert abs(float(shown[name].rstrip("%")) - float(card[name].rstrip("%"))) <= 1.0, "update README.md"


@pytest.mark.slow
def test_the_answer_size_is_what_the_readme_says() -> None:
    from benchmarks.answer_size import measure

    figures = measure(quick=True).figures
    shown = table_rows(page_text("README.md"), "| figure |")
    assert shown["bytes of an explained answer"] == f"{figures['default_answer_bytes']:,.0f}"
    assert shown["bytes of an answer with all maps"] == f"{figures['all_maps_bytes']:,.0f}"


def test_the_readme_shows_a_small_picture() -> None:
    (name,) = re.findall(r"!\[[^\]]+\]\((docs/images/[^)]+)\)", page_text("README.md"))
    assert (ROOT / name).stat().st_size <= 150_000


def test_the_page_on_evaluation_shows_the_committed_evaluation_of_the_committed_model(
    model_is_committed: bool,
) -> None:
    found = json.loads((ROOT / "demonstration" / "evaluation.json").read_text())
    if model_is_committed:
        assert found["weights_sha256"] == json.loads((CHECKPOINT / "card.json").read_text())["weights_sha256"]
    text = page_text("docs/evaluation.md")
    by_heatmap = [line for line in text.splitlines() if line.startswith("| ")]
    for method, figures in found["segmentation"].items():
        cells = [f"{value:.1%}" for value in figures.values()]
        faithful = found["faithfulness"].get(method)  # none for a map that differs only in sharpness
        cells += [f"{faithful[f'{way}_area']:.3f}" if faithful else "" for way in ("deletion", "insertion")]
        assert f"| {method} | {' | '.join(cells)} |" in by_heatmap, "update docs/evaluation.md"
    accuracy = found["accuracy"]
    points = [f"{point['concepts_per_class']:.1f}: {point['accuracy']:.1%}" for point in accuracy["refitted"]["curve"]]
    for said in (*points, f"dense: {accuracy['refitted']['dense']:.1%}", f"backbone: {accuracy['backbone']:.1%}"):
        assert said in text, said
    for places in ("concept_places", "deciding_places"):
        named = [found[places][name] for name in ("pointing_game", "iou", "iou_same_area", "energy_inside")]
        assert " | ".join(f"{value:.1%}" for value in named) in text, places
