"""The nightly job: a day is scored once, goes on after trouble, and says how it went by status and metrics."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kubernetes_validate
import pyarrow.dataset
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from examples.nightly import score_day
from salf_client import Client
from salf_client.probing import record
from salf_client.testing import MockModel, mock_server
from salf_serving import RunningServer, free_port

ROOT = Path(__file__).resolve().parents[2]
NIGHTLY = ROOT / "examples" / "nightly"
PICTURES = sorted((ROOT / "demonstration" / "pictures").glob("*.jpg"))[:3]
DAY = "2026-02-28"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Pictures of one day."""
    folder = tmp_path / "pictures" / DAY
    folder.mkdir(parents=True)
    for picture in PICTURES:
        shutil.copy(picture, folder)
    return tmp_path


def run(store: Path, address: str, *more: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, NIGHTLY / "score_day.py", "--pictures", store / "pictures", "--scored", store / "scored"]
    command += ["--reports", store / "reports", "--day", DAY, "--metrics-file", store / "nightly.prom", *more]
    environment = {"SALF_URL": address, "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)


def metrics(store: Path) -> dict[str, float]:
    text = (store / "nightly.prom").read_text()
    return {sample.name: sample.value for one in text_string_to_metric_families(text) for sample in one.samples}


@pytest.mark.slow
def test_a_day_is_scored_once_and_reported(triton_server: RunningServer, store: Path) -> None:
    known = ROOT / "model_repository"
    first = run(store, triton_server.grpc_address, "--known", known)
    assert first.returncode == 0, first.stderr
    assert "3 scored now, 0 before" in first.stderr
    rows = pyarrow.dataset.dataset(store / "scored" / f"day={DAY}", format="parquet").to_table()
    assert rows.num_rows == 3
    assert (store / "reports" / f"{DAY}.html").stat().st_size > 1000
    found = metrics(store)
    assert (found["salf_nightly_rows"], found["salf_nightly_error_rows"]) == (3, 0)
    assert found["salf_nightly_day_timestamp_seconds"] == 1772236800
    again = run(store, triton_server.grpc_address)
    assert again.returncode == 0, again.stderr
    assert "0 scored now, 3 before" in again.stderr
    assert metrics(store)["salf_nightly_finished_timestamp_seconds"] > found["salf_nightly_finished_timestamp_seconds"]


@pytest.mark.slow
def test_too_many_bad_pictures_are_an_alarm_but_their_rows_are_written(
    triton_server: RunningServer, store: Path
) -> None:
    (store / "pictures" / DAY / "broken.jpg").write_bytes(b"no picture")
    done = run(store, triton_server.grpc_address)
    assert done.returncode == 3, done.stderr
    assert metrics(store)["salf_nightly_error_rows"] == 1


@pytest.mark.slow
def test_a_day_that_was_begun_with_another_model_needs_somebody(store: Path) -> None:
    with mock_server(MockModel(["a", "b"], ["c", "d"], version=1)) as server:
        assert run(store, server.address).returncode == 0
        server.model = MockModel(["a", "b"], ["c", "d"], version=2)
        done = run(store, server.address)
    assert done.returncode == 4, done.stderr
    assert "version 1" in done.stderr


def test_a_version_whose_answer_is_not_known_needs_somebody(store: Path) -> None:
    with mock_server(MockModel(["a", "b"], ["c", "d"], version=1)) as server:
        with Client(server.address) as client:
            (store / "known.json").write_text(record(client))
        assert run(store, server.address, "--known", store / "known.json").returncode == 0
        server.model = MockModel(["a", "b"], ["c", "d"], version=2)
        done = run(store, server.address, "--known", store / "known.json", "--day", "2026-03-01")
        assert done.returncode == 5, done.stderr
        assert "record it again" in done.stderr
        assert "status 7" in done.stderr
    assert not (store / "scored" / "day=2026-03-01").exists()


def test_what_needs_somebody_is_not_tried_again() -> None:
    statuses = range(score_day.WRONG_USE, score_day.UNKNOWN_VERSION + 1)
    assert {*score_day.STATUSES.values(), *score_day.PROBE_STATUSES.values(), score_day.TOO_MANY_ERRORS} == {*statuses}
    listed = " ".join(map(str, statuses))
    assert f"RestartPreventExitStatus={listed}\n" in (NIGHTLY / "salf-nightly.service").read_text()


def test_without_a_right_server_nothing_is_scored_and_it_is_worth_another_try(store: Path) -> None:
    gone = f"127.0.0.1:{free_port()}"
    done = run(store, gone, "--known", ROOT / "model_repository")
    assert done.returncode == 1
    assert "nothing is scored" in done.stderr
    assert not (store / "scored").exists()
    assert not (store / "nightly.prom").exists()


def test_the_timer_and_its_service_are_what_systemd_takes(
    tmp_path: Path, debian_program: Callable[[str, str], Path]
) -> None:
    for name in ("salf-nightly.service", "salf-nightly.timer"):
        text = (NIGHTLY / name).read_text()
        # The program and its user are the machine's; everything else is checked as it is.
        (tmp_path / name).write_text(text.replace("/opt/salf/bin/python", sys.executable).replace("User=salf\n", ""))
    done = subprocess.run(
        [
            debian_program("systemd-analyze", "systemd"),
            "verify",
            tmp_path / "salf-nightly.service",
            tmp_path / "salf-nightly.timer",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "salf-nightly" not in done.stderr
    assert "score_day.py" in (NIGHTLY / "salf-nightly.service").read_text()


def test_the_cron_job_is_what_kubernetes_takes() -> None:
    job = yaml.safe_load((NIGHTLY / "cronjob.yaml").read_text())
    kubernetes_validate.validate(job, "1.37", strict=True)
    rules = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"]["values"] == [2, 3, 4, 5]
    container = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["name"] == rules[0]["onExitCodes"]["containerName"]
