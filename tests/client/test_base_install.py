"""What `pip install salf` alone brings, and that it works with numpy 1.26 and 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Nothing of the tree may reach the environment under test.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
ROOT = Path(__file__).resolve().parents[2]
#: What users write; `assert_type` says what each call gives.
TYPICAL = Path(__file__).with_name("typical_calls.py")
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "matplotlib", "timm", "open_clip_torch")
CHECK = """
import numpy as np
from PIL import Image
from salf_client import Client, ServerUnavailableError
from salf_contract import Preparation, prepare
assert np.__version__.startswith({numpy!r}), np.__version__
prepared = prepare(Image.new("RGB", (60, 40), "red"), Preparation(height=16, width=24))
assert prepared.pixels.shape == (16, 24, 3)
try:
    Client("127.0.0.1:9").explain(np.zeros((8, 8, 3), np.uint8))
except ServerUnavailableError as error:
    print("unavailable as it should be:", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("requirement", "version"), [("numpy==1.26.4", "1.26."), ("numpy>=2", "2.")])
def test_the_base_install_is_light_and_works(tmp_path, requirement, version):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    # Building in the tree would leave build/ and an egg-info behind, and read those that lie there.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for room in ("clients", "training", "export", "serving"):
        subprocess.run(["cp", "-r", ROOT / room, source / room], check=True)
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement, source)

    listed = _run(python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check").lower()
    installed = {line.partition("==")[0] for line in listed.splitlines()}
    assert "salf" in installed
    assert not installed & set(HEAVY)
    assert "unavailable as it should be" in _run(python, "-c", CHECK.format(numpy=version))
    if version == "2.":
        _check_types(python, tmp_path)
    salf = tmp_path / "venv" / "bin" / "salf"
    assert "explain" in _run(salf, "--help")
    done = subprocess.run(
        [salf, "train", "--config", "x.yaml", "--out", "run"], capture_output=True, text=True, check=False, env=CLEAN
    )
    assert done.returncode == 2
    assert "pip install 'salf[train]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def _check_types(python, folder):
    """As in a user's own project: the installed package, outside the tree and its settings."""
    project = folder / "project"
    project.mkdir()
    (project / "typical_calls.py").write_text(TYPICAL.read_text())
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "typical_calls.py")
    assert "no issues found" in _run(*mypy, cwd=project)
    (project / "wrong.py").write_text("from salf_client import Client\n\nClient().explain('boat.jpg', tob=3)\n")
    done = subprocess.run([*mypy[:-1], "wrong.py"], capture_output=True, text=True, check=False, env=CLEAN, cwd=project)
    assert 'Unexpected keyword argument "tob"' in done.stdout


def _run(*command, cwd=None):
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=CLEAN, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
