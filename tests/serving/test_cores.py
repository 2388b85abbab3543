"""How many cores are ours to use, and what Triton is told of them."""

import math
import os
from pathlib import Path

import pytest

from salf_serving import cores
from salf_serving.command import BUDGET_VARIABLE, THREADS_VARIABLE, ServerSettings, triton_environment
from salf_serving.cores import cores_of_groups, usable_cores
from salf_serving.runtime import Runtime


def write(files: dict[str, str], folder: Path) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/\n", {"cpu.max": "max 100000"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/pods/one\n", {"pods/cpu.max": "150000 100000", "pods/one/cpu.max": "max 100000"}, 1.5),
        # Without a namespace of its own, a container is told the host's path and sees its group as the root.
        ("0::/pods/one\n", {"cpu.max": "200000 100000"}, 2),
        ("4:memory:/m\n3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        (
            "4:memory:/m\n3:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("0::/\n", {"cpu.max": "what is this"}, math.inf),
    ],
)
def test_limits_of_control_groups_are_read(tmp_path, membership, files, limit):
    assert cores_of_groups(membership, write(files, tmp_path)) == limit


@pytest.mark.parametrize(("bound", "quota", "usable"), [(8, 4.0, 4), (2, 4.0, 2), (8, 2.7, 2), (8, 0.5, 1)])
def test_the_least_limit_counts_and_parts_of_a_core_do_not(monkeypatch, bound, quota, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(bound)))
    monkeypatch.setattr(cores, "cores_of_groups", lambda _membership, _mount: quota)
    assert usable_cores() == usable


@pytest.mark.parametrize(("threads", "told"), [(None, (None, "3")), (2, ("2", "3"))])
def test_triton_is_told_the_budget_and_other_libraries_start_no_threads(monkeypatch, tmp_path, threads, told):
    monkeypatch.setattr("salf_serving.command.usable_cores", lambda: 3)
    runtime = Runtime(*[tmp_path] * 7)
    settings = ServerSettings(
        repository=tmp_path, grpc_port=1, metrics_port=None, threads=threads, stop_timeout_s=1, server_id="salf_1_a"
    )
    given = {THREADS_VARIABLE: "9", BUDGET_VARIABLE: "9", "OMP_NUM_THREADS": "5"}
    environment = triton_environment(runtime, settings, given)
    assert (environment.get(THREADS_VARIABLE), environment[BUDGET_VARIABLE]) == told
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["OMP_NUM_THREADS"] == "5", "what the operator set for models of his own stays"
