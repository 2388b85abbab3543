"""Blocks of the documentation run, and print what the pages show; the few that cannot run are listed."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from doc_pages import PAGES, Block, page_text, read_blocks

from demonstration.paths import ROOT
from salf_serving import RunningServer

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
    ("docs/running.md", "kubectl apply --filename deploy/kubernetes/publisher.yaml", "needs a cluster"),
    ("docs/deployment.md", "kubectl apply --filename deploy/kserve/serving-runtime.yaml", "needs a cluster"),
    ("README.md", "make demo", "builds environments"),
    ("README.md", "pip install '.[serve,plot]'", "installs packages"),
    ("docs/service-developer.md", "pip install '.[serve,plot]'", "installs packages"),
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

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


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
