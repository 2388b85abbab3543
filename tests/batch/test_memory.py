"""Memory of `salf score` does not grow with the number of inputs."""

import os
import subprocess
import time

import pytest
from scored_stores import command_of, environment, manifest_of

#: The issue's sizes are SALF_MEMORY_TEST=1000,50000.
FEW, MANY = map(int, os.environ.get("SALF_MEMORY_TEST", "1000,4000").split(","))


def peak_anonymous_kib(command):
    """Highest RssAnon of a command, in KiB, looked at a hundred times a second."""
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment())
    peak = 0
    while run.poll() is None:
        try:
            with open(f"/proc/{run.pid}/status") as status:  # noqa: PTH123 - many times a second
                peak = max([peak, *(int(line.split()[1]) for line in status if line.startswith("RssAnon"))])
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.01)
    _, complaints = run.communicate()
    assert run.returncode == 0, complaints
    return peak


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_grows_by_less_than_a_tenth(folder, tmp_path, triton_server):
    peaks = []
    for count in (FEW, MANY):
        command = command_of(manifest_of(folder, count), tmp_path / str(count), triton_server.grpc_address,
                             shard_size=500)  # fmt: skip
        peaks.append(peak_anonymous_kib(command))
    assert peaks[0] > 20_000, "a process that scores needs more than this: nothing was measured"
    assert peaks[1] < 1.1 * peaks[0], peaks
