"""Ten thousand hostile files: each gets a typed error or a valid explanation, and the workers do not notice."""

import io
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from encoded_requests import Endpoint, Failure, assert_sums_hold, workers
from hostile_pictures import hostile_files
from PIL import Image
from tritonclient.utils import InferenceServerException

from salf_contract import Refusal, read_refusal
from salf_serving import RunningServer, Runtime, free_port, launch

FILES, SEED, IN_FLIGHT = 10_000, 20_251_125, 32
ROOT = Path(__file__).parents[2]
#: What a picture may be answered with; anything else is a fault of ours.
REFUSALS = {Refusal.PICTURE_EMPTY, Refusal.PICTURE_TOO_LARGE, Refusal.PICTURE_UNSUPPORTED, Refusal.PICTURE_BROKEN}


@pytest.fixture
def server(runtime: Runtime, tmp_path: Path) -> Iterator[RunningServer]:
    """Encoded and explain model alone."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("scenes", "scenes_encoded"):
        (models / name).symlink_to(ROOT / "model_repository" / name)
    with launch(models, grpc_port=free_port(), log_file=tmp_path / "triton.log", threads=1) as server:
        yield server


def largest_pictures() -> list[bytes]:
    """Of the most pixels allowed, in the modes that take the most memory for each."""
    files = []
    for mode, kind, options in (
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("CMYK", "JPEG", {}),
        ("RGBA", "PNG", {"compress_level": 1}),
        ("I;16", "PNG", {"compress_level": 1}),
        ("RGB", "WEBP", {"method": 0}),
    ):
        file = io.BytesIO()
        Image.new(mode, (5000, 5000)).save(file, kind, **options)
        files.append(file.getvalue())
    return files


def ask_for_the_largest(endpoint: Endpoint, server: RunningServer) -> dict[int, int]:
    """Three at a time of each kind; returns the workers' memory afterwards."""
    with ThreadPoolExecutor(3) as few:
        for picture in largest_pictures():
            for answer in few.map(lambda file: endpoint.ask(file, timeout_s=300), [picture] * 3):
                assert not isinstance(answer, Failure), answer
    return workers(server.pid)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_file_is_answered_and_no_worker_is_hurt(server: RunningServer):
    endpoint, ready_for_all = Endpoint(server.grpc_address), []
    stopped = threading.Event()

    def watch() -> None:
        with triton.InferenceServerClient(server.grpc_address) as client:
            while not stopped.wait(0.25):
                try:
                    ready_for_all.append(client.is_server_ready() and client.is_model_ready("scenes_encoded"))
                except InferenceServerException:
                    ready_for_all.append(False)

    with endpoint.channel, ThreadPoolExecutor(IN_FLIGHT) as pool:
        # Which worker gets a picture is chance: again until all of them have grown to what the largest pictures take.
        warm = ask_for_the_largest(endpoint, server)
        while (again := ask_for_the_largest(endpoint, server)) and sum(again.values()) > 1.01 * sum(warm.values()):
            warm = again
        warm = again
        assert len(warm) == 3
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            found = Counter(pool.map(lambda file: outcome(endpoint.ask(file)), hostile_files(FILES, seed=SEED)))
        finally:
            stopped.set()
            watcher.join()
        after = workers(server.pid)
    assert found.total() == FILES
    assert set(found) <= {code.value for code in REFUSALS} | {"explained"}, found
    # The generator is worth nothing if it does not reach every outcome.
    assert all(found[code.value] > 20 for code in REFUSALS), found
    assert found["explained"] > 1000, found
    assert len(ready_for_all) > 5
    assert all(ready_for_all)
    assert after.keys() == warm.keys()
    assert sum(after.values()) <= 1.05 * sum(warm.values()), (warm, after)


def outcome(answer: object) -> str:
    """What came of one file; raises if it is neither an explanation whose sums hold nor a refusal."""
    if not isinstance(answer, Failure):
        assert_sums_hold(answer)
        return "explained"
    refusal = read_refusal(answer.message)
    return str(answer) if refusal is None else refusal[0].value
