"""Starting, refusing and stopping with the real Triton."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from served import SHARED_MEMORY, is_gone, process_tree, shared_memory_of, wait_until

from salf_serving import (
    ModelLoadError,
    PortTakenError,
    ProbeError,
    RepositoryError,
    ServingError,
    StartupTimeoutError,
    free_port,
    launch,
)
from salf_serving.ports import LOOPBACK

#: What `salf serve` does, as a process of its own: prints Triton's process id when it is ready.
SERVE = """
import sys
from pathlib import Path
from salf_serving import LaunchSettings, ServeSettings, serve
launch = LaunchSettings(repository=Path(sys.argv[1]), grpc_port=int(sys.argv[2]), log_file=Path(sys.argv[3]))
sys.exit(serve(ServeSettings(launch=launch),
               on_ready=lambda server: print(server.pid, flush=True)))
"""


@pytest.fixture
def served(tiny, runtime, tmp_path):
    """`salf serve` in a process of its own: (process, all process ids below and including it)."""
    tiny.write(tmp_path / "models")
    command = [sys.executable, "-c", SERVE, str(tmp_path / "models"), str(free_port()), str(tmp_path / "triton.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        triton = int(process.stdout.readline())
        tree = process_tree(process.pid)
        assert triton in tree
        assert len(tree) >= 4, "salf, guard, tritonserver, Python stub"
        assert shared_memory_of(process.pid)
        yield process, tree
        if process.poll() is None:
            process.terminate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_with_status_0(served, number):
    process, tree = served
    process.send_signal(number)
    assert process.wait(20) == 0
    assert all(is_gone(pid) for pid in tree)
    assert not shared_memory_of(process.pid)


def test_a_killed_parent_leaves_no_process_and_no_shared_memory(served):
    process, tree = served
    process.kill()
    process.wait(5)
    wait_until(lambda: all(is_gone(pid) for pid in tree))
    wait_until(lambda: not shared_memory_of(process.pid))


def test_a_frozen_triton_is_killed_after_its_time(tiny, runtime, tmp_path):
    tiny.write(tmp_path / "models")
    with launch(
        tmp_path / "models", grpc_port=free_port(), log_file=tmp_path / "triton.log", stop_timeout_s=1
    ) as server:
        tree = process_tree(server.pid)
        assert len(tree) >= 2, "tritonserver and its Python stub"
        os.kill(server.pid, signal.SIGSTOP)
    assert all(is_gone(pid) for pid in tree)
    assert not _shared_memory_in_log(tmp_path / "triton.log")


def _shared_memory_in_log(log_file: Path) -> list[Path]:
    prefixes = set(re.findall(r"shm-region-prefix-name\":\"(salf_\w+?_\w+?_)\"", log_file.read_text()))
    assert prefixes
    return [path for prefix in prefixes for path in SHARED_MEMORY.glob(f"{prefix}*")]


def test_a_wrong_probe_names_model_output_and_difference(tiny, tmp_path, start):
    tiny.write(tmp_path / "models", probe="wrong")
    with pytest.raises(ProbeError, match=r"model tiny version 1 .* output 'logits' differs by up to 0\.5"):
        start(tmp_path / "models")
    assert not _shared_memory_in_log(tmp_path / "triton.log")


def test_a_model_without_a_probe_only_has_to_be_ready(tiny, runtime, tmp_path):
    tiny.write(tmp_path / "models", probe=None)
    with launch(tmp_path / "models", grpc_port=free_port(), log_file=tmp_path / "triton.log") as server:
        assert [model.probed for model in server.models] == [False]


def test_a_corrupt_model_is_told_in_one_sentence(tiny, tmp_path, start):
    (tiny.write(tmp_path / "models") / "model.onnx").write_bytes(b"\x08\x0ano model")
    with pytest.raises(ModelLoadError, match=r"model tiny version 1 cannot be loaded: .*model\.onnx.*log: ") as caught:
        start(tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert "At:" not in str(caught.value)


def test_a_missing_model_file_is_told(tiny, tmp_path, start):
    (tiny.write(tmp_path / "models") / "model.onnx").unlink()
    with pytest.raises(ModelLoadError, match=r"model\.onnx does not exist; export the model again"):
        start(tmp_path / "models")


def test_an_unknown_parameter_is_told(tiny, config, tmp_path, start):
    wrong = config.replace("intra_op_thread_count", "intra_op_threads")
    tiny.write(tmp_path / "models", config=wrong)
    with pytest.raises(ModelLoadError, match="unknown parameter 'intra_op_threads'"):
        start(tmp_path / "models")


def test_a_configuration_that_does_not_fit_the_graph_is_told(tiny, config, tmp_path, start):
    tiny.write(tmp_path / "models", config=config.replace("dims: [ 6, 4, 3 ] }", "dims: [ 4, 6, 3 ] }"))
    with pytest.raises(ModelLoadError, match=r"input 'image' is \[4, 6, 3\] in config.pbtxt but \[6, 4, 3\]"):
        start(tmp_path / "models")


def test_a_broken_configuration_is_told(tiny, config, tmp_path, start):
    tiny.write(tmp_path / "models", config=config.replace("max_batch_size: 8", "max_batch_size: eight"))
    with pytest.raises(
        ModelLoadError, match=r"model tiny cannot be loaded: .*config\.pbtxt, line and column 3:17: .*eight"
    ):
        start(tmp_path / "models")


def test_one_broken_model_of_two_is_named(tiny, config, tmp_path, start):
    tiny.write(tmp_path / "models")
    shutil.copytree(tmp_path / "models" / "tiny", tmp_path / "models" / "other")
    (tmp_path / "models" / "other" / "config.pbtxt").write_text(config.replace('"tiny"', '"other"'))
    (tmp_path / "models" / "other" / "1" / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="model other version 1"):
        start(tmp_path / "models")


def test_a_taken_port_is_named_with_the_remedy(tiny, runtime, tmp_path):
    tiny.write(tmp_path / "models")
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        message = f"port {port} on 127.0.0.1 is already in use; .*--grpc-port"
        with pytest.raises(PortTakenError, match=message), launch(tmp_path / "models", grpc_port=port):
            pass
        message = f"port {port} on 127.0.0.1 is already in use; .*--metrics-port"
        with (
            pytest.raises(PortTakenError, match=message),
            launch(tmp_path / "models", grpc_port=free_port(), metrics_port=port),
        ):
            pass


def test_a_port_that_is_taken_after_the_check_is_named_too(tiny, runtime, tmp_path, monkeypatch):
    tiny.write(tmp_path / "models")
    monkeypatch.setattr("salf_serving.server.check_port", lambda port, option: None)
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(PortTakenError, match=str(port)),
            launch(tmp_path / "models", grpc_port=port, log_file=tmp_path / "triton.log", startup_timeout_s=20),
        ):
            pass


def test_another_triton_on_the_port_is_not_taken_for_ours(tiny, tiny_server, tmp_path, monkeypatch):
    tiny.write(tmp_path / "models")
    monkeypatch.setattr("salf_serving.server.check_port", lambda port, option: None)
    port = int(tiny_server.grpc_address.rsplit(":", 1)[1])
    with (
        pytest.raises(PortTakenError, match=str(port)),
        launch(tmp_path / "models", grpc_port=port, log_file=tmp_path / "triton.log", startup_timeout_s=20),
    ):
        pass


def test_a_start_that_takes_too_long_is_given_up(tiny, runtime, tmp_path):
    tiny.write(tmp_path / "models")
    with (
        pytest.raises(StartupTimeoutError, match=r"within 0\.01 s.*triton\.log"),
        launch(tmp_path / "models", grpc_port=free_port(), log_file=tmp_path / "triton.log", startup_timeout_s=0.01),
    ):
        pass


def test_repositories_that_hold_nothing_are_refused_before_triton_starts(runtime, tmp_path, start):
    with pytest.raises(RepositoryError, match="does not exist; write one with `salf export`"):
        start(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RepositoryError, match="holds no models"):
        start(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="is a file"):
        start(tmp_path / "file")


def test_models_without_configuration_or_version_are_refused(tiny, tmp_path, start):
    version = tiny.write(tmp_path / "models")
    with pytest.raises(RepositoryError, match="is the repository the folder above"):
        start(tmp_path / "models" / "tiny")
    version.rename(version.parent / "one")
    with pytest.raises(RepositoryError, match=r"model tiny .* has no version folder"):
        start(tmp_path / "models")


def test_paths_with_spaces_and_shell_characters_work(tiny, runtime, tmp_path, monkeypatch):
    folder = tmp_path / "my models; $(touch surprise) & more"
    tiny.write(folder / "models")
    shutil.copytree(runtime.root, folder / "runtime", symlinks=True)
    monkeypatch.setenv("SALF_RUNTIME", str(folder / "runtime"))
    with launch(
        folder / "models", grpc_port=free_port(), log_file=folder / "triton.log", startup_timeout_s=30
    ) as server:
        assert [model.probed for model in server.models] == [True]
    assert not list(Path("/").glob("surprise"))


def test_model_names_with_shell_characters_are_refused(tiny, tmp_path, start):
    tiny.write(tmp_path / "models").parent.rename(tmp_path / "models" / "tiny model")
    with pytest.raises(RepositoryError, match=r"'tiny model' .* rename it"):
        start(tmp_path / "models")


def test_threads_must_be_positive(tiny, tmp_path):
    tiny.write(tmp_path / "models")
    with pytest.raises(ServingError, match="threads must be 1 or more"), launch(tmp_path / "models", threads=0):
        pass
