"""The server's own environment: pins, installing, finding. (The real installation is the `runtime` fixture.)"""

import json
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import salf_contract
from salf_serving import InstallError, RuntimeMissingError, find_runtime, install_runtime, runtime_root
from salf_serving import runtime as module
from salf_serving.backend_files import backend_files
from salf_serving.runtime import STAMP_FILE, pins_hash, runtime_pins

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def pip_calls(monkeypatch, tmp_path):
    """Install into a temporary folder from a pip that only makes the files that are looked for."""
    calls = []

    def fake(target, _pins, report):
        calls.append(target)
        report("Collecting everything")
        triton = target / "pytriton" / "tritonserver"
        stub = triton / "python_backend_stubs" / module._PYTHON / "triton_python_backend_stub"
        for path in (triton / "bin" / "tritonserver", stub, triton / "backends" / "python" / "libtriton_python.so"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o755)
        numpy = target / "numpy-1.26.4.dist-info"
        numpy.mkdir()
        (numpy / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n")

    monkeypatch.setattr(module, "pip_install", fake)
    monkeypatch.setenv("SALF_RUNTIME", str(tmp_path / "runtime"))
    return calls


def test_pins_are_those_of_pyproject():
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    assert runtime_pins() == tuple(sorted(extras["runtime"]))
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in runtime_pins())


def test_numpy_stays_below_2():
    assert any(pin.startswith("numpy==1.") for pin in runtime_pins())


def test_the_place_is_the_variable_or_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SALF_RUNTIME", str(tmp_path))
    assert runtime_root() == tmp_path
    monkeypatch.delenv("SALF_RUNTIME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert runtime_root() == tmp_path / "cache" / "salf" / f"runtime-{pins_hash()}"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert runtime_root().is_relative_to(Path("~/.cache").expanduser())


def test_a_missing_runtime_is_told_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("SALF_RUNTIME", str(tmp_path / "none"))
    with pytest.raises(RuntimeMissingError, match=r"not installed at .*none; run `salf serve --install`"):
        find_runtime()


def test_installing_twice_installs_once(pip_calls, tmp_path):
    lines = []
    first = install_runtime(report=lines.append)
    assert install_runtime() == first == find_runtime()
    assert len(pip_calls) == 1
    assert lines == ["Collecting everything"]
    assert json.loads((tmp_path / "runtime" / STAMP_FILE).read_text())["pins"] == list(runtime_pins())
    assert [path.name for path in tmp_path.iterdir()] == ["runtime"]


def test_several_processes_may_install_at_once(pip_calls):
    with ThreadPoolExecutor(4) as pool:
        runtimes = list(pool.map(lambda _: install_runtime(), range(4)))
    assert len(set(runtimes)) == 1
    assert len(pip_calls) == 1


def test_changed_pins_are_told_and_installing_replaces_them(pip_calls, monkeypatch, tmp_path):
    install_runtime()
    (tmp_path / "runtime" / "old").touch()
    monkeypatch.setattr(module, "runtime_pins", lambda: ("numpy==1.26.3",))
    with pytest.raises(RuntimeMissingError, match=r"made for other versions .* run `salf serve --install`"):
        find_runtime()
    install_runtime()
    assert len(pip_calls) == 2
    assert not (tmp_path / "runtime" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["runtime"]


def test_a_failed_installation_leaves_nothing(pip_calls, monkeypatch, tmp_path):
    def fail(target, _pins, report):
        target.mkdir(parents=True)
        raise InstallError("pip could not install")

    monkeypatch.setattr(module, "pip_install", fail)
    with pytest.raises(InstallError):
        install_runtime()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_is_left_alone(pip_calls, tmp_path):
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "thesis.tex").touch()
    with pytest.raises(InstallError, match="is no runtime of salf; remove it or set SALF_RUNTIME"):
        install_runtime()
    assert (tmp_path / "runtime" / "thesis.tex").exists()


@pytest.mark.parametrize("missing", ["bin/tritonserver", f"python_backend_stubs/{module._PYTHON}"])
def test_an_incomplete_runtime_is_told(pip_calls, missing):
    runtime = install_runtime()
    path = runtime.site_packages / "pytriton" / "tritonserver" / missing
    path.rename(path.with_name("gone"))
    with pytest.raises(RuntimeMissingError, match=r"incomplete: .* is missing; .*salf serve --install"):
        find_runtime()


def test_numpy_2_in_the_runtime_is_refused(pip_calls):
    runtime = install_runtime()
    metadata = runtime.site_packages / "numpy-1.26.4.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.0\n")
    with pytest.raises(RuntimeMissingError, match=r"needs numpy < 2, but has 2\.1\.0"):
        find_runtime()


def test_backends_are_copies_and_follow_our_sources(pip_calls):
    runtime = install_runtime()
    assert {path.name for path in runtime.backends.iterdir()} == {"python", "onnxruntime", "openvino", "salf_encoded"}
    assert {path.name for path in (runtime.backends / "python").iterdir()} == {
        "libtriton_python.so",
        "triton_python_backend_stub",
    }
    ours = Path(module.__file__).parent / "backends" / "onnxruntime" / "model.py"
    assert (runtime.backends / "onnxruntime" / "model.py").read_bytes() == ours.read_bytes()
    contract = Path(salf_contract.__file__).parent / "picture.py"
    assert (runtime.backends / "salf_encoded" / "salf_contract" / "picture.py").read_bytes() == contract.read_bytes()
    assert not any(path.is_symlink() for path in runtime.backends.rglob("*"))


def test_pips_error_is_passed_on(monkeypatch, tmp_path):
    monkeypatch.setenv("SALF_RUNTIME", str(tmp_path / "runtime"))
    monkeypatch.setattr(module, "runtime_pins", lambda: ("salf-no-such-package==1.0",))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InstallError, match=r"could not install the server's packages: .*salf-no-such-package"):
        install_runtime()


def test_an_image_that_brings_triton_gets_the_same_backends(tmp_path):
    subprocess.run([sys.executable, "-m", "salf_serving.backend_files", str(tmp_path / "backends")], check=True)
    files = {path.relative_to(tmp_path / "backends") for path in (tmp_path / "backends").rglob("*.py")}
    assert files == set(backend_files())
    assert Path("salf_encoded/encoded_endpoint/asks.py") in files


@pytest.fixture
def native(monkeypatch, tmp_path):
    """A folder that looks like /opt/tritonserver, with $SALF_TRITON set to it."""
    triton = tmp_path / "tritonserver"
    for path in (triton / "bin" / "tritonserver", triton / "backends" / "python" / "triton_python_backend_stub"):
        path.parent.mkdir(parents=True)
        path.touch(mode=0o755)
    monkeypatch.setenv("SALF_TRITON", str(triton))
    return triton


def test_a_triton_that_is_there_is_used_with_our_backends_beside_its_own(pip_calls, native):
    runtime = install_runtime()

    assert (runtime.tritonserver, runtime.backends) == (native / "bin" / "tritonserver", native / "backends")
    assert {path.name for path in runtime.backends.iterdir()} == {"python", "salf_encoded"}
    assert not {"nvidia-pytriton", "onnxruntime", "openvino"} & {pin.partition("==")[0] for pin in runtime_pins()}
    assert {"numpy", "pillow", "pydantic"} <= {pin.partition("==")[0] for pin in runtime_pins()}
    elsewhere = runtime.moved_to(runtime.root.parent / "moved")
    assert (elsewhere.tritonserver, elsewhere.bin) == (runtime.tritonserver, runtime.root.parent / "moved" / "bin")


def test_a_changed_backend_beside_a_triton_that_is_there_is_noticed(pip_calls, native):
    install_runtime()
    (native / "backends" / "salf_encoded" / "model.py").write_text("# another version's")

    with pytest.raises(RuntimeMissingError, match="lacks the backends of this salf"):
        find_runtime()
    install_runtime()
    assert find_runtime().backends == native / "backends"
