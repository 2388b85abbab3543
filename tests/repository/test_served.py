"""The real Triton on repositories that were published, rolled back, tuned, and left by a killed publisher."""

import shutil

import numpy as np
import pytest
from model_family import NAMES, publish_family

from salf_contract import Trial, Tuning, TuningRecord, tuning_file
from salf_export import roll_back
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


def test_triton_loads_what_a_publisher_killed_between_two_models_left(repository, runtime, tmp_path):
    copy = shutil.copytree(repository, tmp_path / "repository")
    old = (copy / "boats/config.pbtxt").read_bytes()
    publish_family(copy, 3)
    (copy / "boats/config.pbtxt").write_bytes(old)  # the explain model's comes last
    assert versions_served(copy, tmp_path / "triton.log") == {"boats": "2", "boats_all_maps": "3"}
    # Killed before that: the version directories lie there, and nothing names them.
    for name in NAMES:
        (copy / name / "config.pbtxt").write_bytes((repository / name / "config.pbtxt").read_bytes())
    assert versions_served(copy, tmp_path / "triton.log") == dict.fromkeys(NAMES, "2")
    assert np.load(copy / "boats/3/probe.npz")["output:logits"].shape == (1, 3)
