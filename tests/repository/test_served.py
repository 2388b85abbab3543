"""The real Triton on repositories that were published, rolled back, tuned, and left by a killed publisher."""

import shutil

import pytest
from model_family import CHANGES, NAMES, publish_family

from salf_contract import Trial, Tuning, TuningRecord, tuning_file
from salf_export import roll_back
from salf_export.repository import read_model
from salf_serving import free_port, launch


def versions_served(repository, log_file):
    """Every served model answered its probe; each version's probe has another answer."""
    with launch(repository, grpc_port=free_port(), log_file=log_file, threads=1) as server:
        assert all(model.probed for model in server.models)
        return {model.name: model.version for model in server.models}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "repository"
    publish_family(folder, 1)
    publish_family(folder, 2)
    return folder


def test_triton_serves_the_version_that_is_named_and_no_other(repository, runtime, tmp_path):
    copy = shutil.copytree(repository, tmp_path / "repository")
    assert versions_served(copy, tmp_path / "triton.log") == dict.fromkeys(NAMES, "2")
    best = Tuning(max_batch_size=4, instances=2, threads=1, max_queue_delay_microseconds=50)
    trial = Trial(settings=best, pictures_per_s=1, p50_ms=1, p95_ms=1, requests=1, fits=True)
    record = TuningRecord(model="boats", version=1, p95_bound_ms=1, concurrency=1, best=best, trials=(trial,))
    (copy / "boats" / tuning_file(1)).write_text(record.to_json())
    roll_back(copy, "boats", to=1)
    assert versions_served(copy, tmp_path / "triton.log") == dict.fromkeys(NAMES, "1")


def test_triton_loads_whatever_a_kill_left(interrupted, runtime, tmp_path):
    """Every state of a model's folder after kill -9 at any change of the file system, all in one server."""
    states = {}
    for change in CHANGES:
        for step in interrupted("kill", change).iterdir():
            for folder in (step / "repository" / name for name in NAMES):
                if folder.is_dir():
                    model = read_model(folder)
                    states.setdefault((model.versions, model.served, "specific" in model.config), folder)
    expected = {}
    for (_, served, _), folder in states.items():
        name = f"state_{len(expected)}"
        copy = shutil.copytree(folder, tmp_path / "models" / name)
        config = (copy / "config.pbtxt").read_text()
        (copy / "config.pbtxt").write_text(config.replace(f'name: "{folder.name}"', f'name: "{name}"', 1))
        expected[name] = str(served)
    assert {versions for versions, _, _ in states} == {(1,), (1, 2), (1, 2, 3), (2, 3), (3,)}
    assert set(expected.values()) == {"1", "2", "3"}
    assert versions_served(tmp_path / "models", tmp_path / "triton.log") == expected
