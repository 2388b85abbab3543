"""S3 through its real API on the loopback, with errors, delays and truncated answers on the way."""

import logging
import random
import threading
import time
import urllib.request

import pytest
from scored_stores import assert_same_rows, rows_of
from test_scoring import manifest_of

from salf_batch import Settings, StoreUnavailableError, score

pytest.importorskip("s3fs")
logging.getLogger("werkzeug").setLevel(logging.WARNING)
pytest.importorskip("moto.server")


class Faulty:
    """A WSGI application before the store: some answers are 503, some late, some end too early."""

    def __init__(self, application):
        self.application, self.chance, self.share, self.faults = application, random.Random(3), 0.0, 0

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] != "GET" or self.chance.random() >= self.share:
            return self.application(environ, start_response)
        self.faults += 1
        kind = self.chance.choice(("error", "late", "truncated"))
        if kind == "error":
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"slow down"]
        if kind == "late":
            time.sleep(0.3)
            return self.application(environ, start_response)
        body = b"".join(self.application(environ, start_response))
        return [body[: len(body) // 2]]  # the announced length stays


@pytest.fixture
def s3(monkeypatch):
    """(Files of the store, its faults) behind AWS_ENDPOINT_URL."""
    import s3fs
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    faulty = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faulty, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    reset = urllib.request.Request(f"http://127.0.0.1:{server.port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=10).close()
    yield s3fs.S3FileSystem(), faulty
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def stored(s3, folder):
    files, faulty = s3
    files.mkdir("photos")
    files.mkdir("rows")
    files.put(f"{folder}/", "photos/set/", recursive=True)
    return files, faulty


def test_a_bucket_in_trouble_loses_no_row(stored, folder, tmp_path, triton_server):
    files, faulty = stored
    settings = Settings(url=triton_server.grpc_address, shard_size=20)
    (tmp_path / "list.txt").write_text(
        "".join(f"s3://photos/set/{line.removeprefix(f'{folder}/')}\n"
                for line in manifest_of(folder, 120).read_text().split())
    )  # fmt: skip
    score(str(tmp_path / "list.txt"), str(tmp_path / "calm"), settings)
    faulty.share = 0.2
    summary = score(str(tmp_path / "list.txt"), "s3://rows/troubled", settings)
    assert faulty.faults > 10
    assert summary.inputs == 120
    assert summary.reads_repeated > 0
    faulty.share = 0.0
    assert score(str(tmp_path / "list.txt"), "s3://rows/troubled", settings).already_done == 120
    files.get("rows/troubled/", str(tmp_path / "troubled"), recursive=True)
    assert_same_rows(rows_of(tmp_path / "calm"), rows_of(tmp_path / "troubled"))


def test_a_folder_of_a_bucket_is_a_source(stored, tmp_path, triton_server):
    summary = score("s3://photos/set", str(tmp_path / "scored"), Settings(url=triton_server.grpc_address))
    assert (summary.inputs, summary.errors) == (7, 1)
    assert rows_of(tmp_path / "scored")[-1]["uri"] == "s3://photos/set/farm.jpg"


def test_a_store_that_is_gone_stops_the_run(stored, tmp_path, triton_server):
    _, faulty = stored
    (tmp_path / "list.txt").write_text("s3://photos/set/farm.jpg\n")
    faulty.share, faulty.chance.choice = 1.0, lambda kinds: "error"
    with pytest.raises(StoreUnavailableError, match="does not answer after 5 attempts"):
        score(str(tmp_path / "list.txt"), str(tmp_path / "scored"), Settings(url=triton_server.grpc_address))
