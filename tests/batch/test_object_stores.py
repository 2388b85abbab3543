"""Stores through their real APIs on the loopback, with errors, delays and torn answers on the way."""

import json
import logging
import subprocess
import urllib.request
from contextlib import contextmanager

import fsspec
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from faulty_proxy import faulty_proxy
from prometheus_client.parser import text_string_to_metric_families
from real_stores import AZURE_ACCOUNT, AZURE_KEY, azure_server, gcs_server, http_server, s3_server
from scored_stores import assert_same_rows, command_of, environment, jpeg, manifest_of, rows_of
from test_sources import tar_of

import salf_batch.filesystems
import salf_batch.stores
from salf_batch import InvalidSourceError, MetricsUnavailableError, Settings, StoreUnavailableError, score
from salf_batch.sources import open_source
from salf_batch.stores import place_of
from salf_serving import free_port

logging.getLogger("werkzeug").setLevel(logging.WARNING)
PICTURES = 120


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Silence is noticed after a second, not half a minute; file systems made with that do not outlive the test."""
    monkeypatch.setattr(salf_batch.filesystems, "SILENCE_S", 1)
    monkeypatch.setattr(salf_batch.stores, "_FIRST_PAUSE_S", 0.02)
    forget_file_systems()
    yield
    forget_file_systems()


def forget_file_systems():
    for scheme in ("s3", "gs", "az", "http"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
    from gcsfs.core import GCSFileSystem

    GCSFileSystem.clear_instance_cache()


@contextmanager
def s3(monkeypatch):
    with s3_server() as url, faulty_proxy(url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
            monkeypatch.setenv(f"AWS_{name}", value)
        yield proxy


@contextmanager
def gs(monkeypatch):
    with faulty_proxy("") as proxy, gcs_server(proxy.url) as url:
        proxy.upstream = url
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield proxy


@contextmanager
def az(monkeypatch):
    with azure_server() as url, faulty_proxy(url) as proxy:
        endpoint = f"BlobEndpoint={proxy.url}/{AZURE_ACCOUNT}"
        monkeypatch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};{endpoint}",
        )
        yield proxy


STORES = {"s3": s3, "gs": gs, "az": az}


@pytest.fixture(params=STORES)
def store(request, monkeypatch, folder):
    """(Scheme, proxy before the store); the store holds the folder's pictures as photos/set, and an empty rows."""
    with STORES[request.param](monkeypatch) as proxy:
        files = place_of(f"{request.param}://photos").files
        files.mkdir("photos")
        files.mkdir("rows")
        for path in sorted(folder.rglob("*.jpg")):
            files.pipe_file(f"photos/set/{path.relative_to(folder)}", path.read_bytes())
        yield request.param, proxy


def names_of(folder, count, address):
    """The lines of a manifest that repeats the folder's pictures, at another address."""
    return "".join(f"{address}/{line.removeprefix(f'{folder}/')}\n" for line in
                   manifest_of(folder, count).read_text().split())  # fmt: skip


def retries_in(file, operation):
    """Sum of the store's repetitions in a metrics file."""
    families = {family.name: family for family in text_string_to_metric_families(file.read_text())}
    samples = families["salf_score_store_retries"].samples
    return sum(sample.value for sample in samples if sample.labels["operation"] == operation)


@pytest.mark.slow
def test_a_store_in_trouble_loses_no_row_and_its_retries_are_seen(store, folder, tmp_path, triton_server):
    scheme, proxy = store
    target, metrics = f"{scheme}://rows/troubled", tmp_path / "score.prom"
    settings = Settings(url=triton_server.grpc_address, shard_size=10, metrics_file=metrics)
    (tmp_path / "list.txt").write_text(names_of(folder, PICTURES, f"{scheme}://photos/set"))
    score(str(tmp_path / "list.txt"), str(tmp_path / "calm"), settings)
    assert retries_in(metrics, "read") == 0
    proxy.trouble(0.25)
    summary = score(str(tmp_path / "list.txt"), target, settings)
    proxy.trouble(0.0)
    assert set(proxy.faults) == {"error", "lost", "slow", "cut", "short", "stalled"}
    assert summary.inputs == PICTURES
    assert retries_in(metrics, "read") == summary.reads_repeated > 5
    assert retries_in(metrics, "write") == summary.writes_repeated > 0
    # Each fault that a library tells of is seen; Azure's repeats a torn body on its own.
    told = proxy.faults["error"] + proxy.faults["lost"]
    assert summary.reads_repeated + summary.writes_repeated >= told
    assert score(str(tmp_path / "list.txt"), target, settings).already_done == PICTURES
    place_of(target).files.get(target, str(tmp_path / "troubled"), recursive=True)
    assert_same_rows(rows_of(tmp_path / "calm"), rows_of(tmp_path / "troubled"))


def test_a_folder_of_a_store_is_a_source(store, tmp_path, triton_server):
    scheme, proxy = store
    proxy.trouble(0.3)
    summary = score(f"{scheme}://photos/set", str(tmp_path / "scored"), Settings(url=triton_server.grpc_address))
    assert (summary.inputs, summary.errors) == (7, 1)
    assert rows_of(tmp_path / "scored")[-1]["uri"] == f"{scheme}://photos/set/farm.jpg"
    assert open_source(f"{scheme}://photos/set/b/**/*.jpg").count == 4


def test_archives_tables_and_manifests_of_a_store_in_trouble_give_all_their_pictures(store, folder, tmp_path):
    scheme, proxy = store
    files = place_of(f"{scheme}://photos").files
    pictures = [jpeg(seed) for seed in range(40)]
    members = {f"{number:02d}.jpg": data for number, data in enumerate(pictures)}
    tar_of(tmp_path / "shard-0.tar", {"empty.jpg": b"", **members})
    parquet.write_table(pa.table({"photo": pictures}), tmp_path / "photos.parquet", row_group_size=7)
    for name in ("shard-0.tar", "photos.parquet"):
        files.pipe_file(f"photos/{name}", (tmp_path / name).read_bytes())
    names = [f"set/{path.relative_to(folder)}" for path in sorted(folder.rglob("*.jpg"))]
    files.pipe_file("photos/list.csv", "\n".join(["id,path", *(f"1,{name}" for name in names)]).encode())
    files.pipe_file("photos/list.jsonl", "\n".join(json.dumps({"uri": f"{scheme}://photos/{name}"}) for name in
                                                   names).encode())  # fmt: skip
    listed = [(folder / name.removeprefix("set/")).read_bytes() for name in names]
    # Not short: half of a tar's member is noticed, and asked for again, but half of a whole file is not.
    proxy.trouble(0.3, ("error", "lost", "cut"))
    for name, column, expected in (
        ("shard-{0..0}.tar", None, [b"", *pictures]),  # S3 gives all of a file if asked for none of it
        ("*.parquet", "photo", pictures),
        ("list.csv", None, listed),
        ("list.jsonl", None, listed),
    ):
        source = open_source(f"{scheme}://photos/{name}", column=column)
        assert [one.load() for one in source.again()] == expected
        assert source.retries.value > 0, name


def test_a_store_that_is_gone_stops_the_run(store, tmp_path, triton_server):
    scheme, proxy = store
    (tmp_path / "list.txt").write_text(f"{scheme}://photos/set/farm.jpg\n")
    proxy.trouble(1.0, ("error",))
    with pytest.raises(StoreUnavailableError, match="does not answer after 8 attempts"):
        score(str(tmp_path / "list.txt"), str(tmp_path / "scored"), Settings(url=triton_server.grpc_address))


@pytest.mark.parametrize("encoded", [False, True])
def test_a_list_of_addresses_in_trouble_loses_no_row(folder, tmp_path, triton_server, encoded):
    settings = Settings(url=triton_server.grpc_address, shard_size=20, sends_encoded=encoded)
    with http_server(folder) as url, faulty_proxy(url) as proxy:
        (tmp_path / "list.txt").write_text(names_of(folder, PICTURES, proxy.url))
        score(str(tmp_path / "list.txt"), str(tmp_path / "calm"), settings)
        proxy.trouble(0.25)
        summary = score(str(tmp_path / "list.txt"), str(tmp_path / "troubled"), settings)
    assert set(proxy.faults) == {"error", "lost", "slow", "cut", "short", "stalled"}
    assert summary.reads_repeated >= proxy.faults["error"] + proxy.faults["lost"]
    rows = rows_of(tmp_path / "troubled")
    assert_same_rows(rows_of(tmp_path / "calm"), rows)
    assert {row["error"].partition(" ")[0] for row in rows if row["uri"].endswith("missing.jpg")} == {"there"}


def test_manifests_on_a_web_server_are_sources_and_archives_need_ranges(folder, tmp_path):
    parquet.write_table(pa.table({"image": [jpeg(1), jpeg(2)]}), folder / "photos.parquet")
    (folder / "list.txt").write_text("farm.jpg\nb/camp.jpg\n")
    tar_of(folder / "photos.tar", {"1.jpg": jpeg(1)})
    with http_server(folder) as url, faulty_proxy(url) as proxy:
        proxy.trouble(0.4, ("error", "lost", "cut"))
        source = open_source(f"{proxy.url}/list.txt")
        assert [one.load() for one in source.again()] == [(folder / name).read_bytes() for name in
                                                          ("farm.jpg", "b/camp.jpg")]  # fmt: skip
        assert [one.load() for one in open_source(f"{proxy.url}/photos.parquet").again()] == [jpeg(1), jpeg(2)]
        (folder / "b" / "list.txt").write_text("/farm.jpg\n../farm.jpg\n")
        farm = (folder / "farm.jpg").read_bytes()
        assert [one.load() for one in open_source(f"{proxy.url}/b/list.txt").again()] == [farm, farm]
        with pytest.raises(InvalidSourceError, match="gives whole files only"):
            open_source(f"{proxy.url}/photos.tar")
        with pytest.raises(InvalidSourceError, match="there is no file"):
            open_source(f"{proxy.url}/nowhere.txt")


def test_an_address_is_recognised_by_its_path_whatever_its_query_says(folder):
    (folder / "list.csv").write_text("path\nfarm.jpg\n")
    tar_of(folder / "photos.tar", {"1.jpg": jpeg(1)})
    with http_server(folder) as url:
        source = open_source(f"{url}/list.csv?signature=a/b.jpg")
        assert source.kind == "csv"
        assert [one.load() for one in source.again()] == [(folder / "farm.jpg").read_bytes()]
        assert open_source(f"{url}/farm.jpg?of=list.txt").kind == "pictures"
        with pytest.raises(InvalidSourceError, match="gives whole files only"):
            open_source(f"{url}/photos.tar?signature=x")


def test_the_command_writes_metrics_and_shows_them_while_it_works(folder, tmp_path, triton_server):
    source, port, metrics = manifest_of(folder, 2000), free_port(), tmp_path / "score.prom"
    command = [*command_of(source, tmp_path / "scored", triton_server.grpc_address, shard_size=100), "--metrics-port",
               str(port), "--metrics-file", str(metrics)]  # fmt: skip
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    seen = ""
    while run.poll() is None and "salf_score_inputs" not in seen:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                seen = answer.read().decode()
        except OSError:
            continue
    printed, complaints = run.communicate(timeout=200)
    assert run.returncode == 0, complaints
    assert 'salf_score_finished_timestamp_seconds{target="' in seen
    assert json.loads(printed)["writes_repeated"] == 0
    values = {(sample.name, sample.labels.get("result")): sample.value for family in
              text_string_to_metric_families(metrics.read_text()) for sample in family.samples}  # fmt: skip
    assert values["salf_score_inputs", None] == values["salf_score_rows_done", None] == 2000
    assert values["salf_score_rows_total", "answered"] + values["salf_score_rows_total", "error"] == 2000
    assert values["salf_score_finished_timestamp_seconds", None] > values["salf_score_started_timestamp_seconds", None]


def test_metrics_that_cannot_be_shown_stop_the_run_before_it_begins(folder, tmp_path, triton_server):
    settings = {"url": triton_server.grpc_address}
    with pytest.raises(MetricsUnavailableError, match="--metrics-file"):
        score(str(folder), str(tmp_path / "scored"), Settings(**settings, metrics_file=tmp_path / "no" / "score.prom"))
    with http_server(folder) as url:
        for port in (int(url.rpartition(":")[2]), 99999):
            with pytest.raises(MetricsUnavailableError, match="--metrics-port"):
                score(str(folder), str(tmp_path / "scored"), Settings(**settings, metrics_port=port))
    assert not list((tmp_path / "scored").glob("part-*"))


@pytest.mark.parametrize(
    ("address", "variable"),
    [
        ("s3://photos/set", "AWS_ACCESS_KEY_ID"),
        ("gs://photos/set", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://photos/set", "AZURE_STORAGE_CONNECTION_STRING"),
    ],
)
def test_missing_credentials_name_the_variables(monkeypatch, tmp_path, address, variable):
    """No credentials anywhere, and a store that refuses who has none."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS",
             "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY")  # fmt: skip
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in ("AWS_EC2_METADATA_DISABLED", "NO_GCE_CHECK"):
        monkeypatch.setenv(name, "true")
    with refusing_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        with pytest.raises(StoreUnavailableError, match=f"looked for in .*{variable}"):
            open_source(address)


@contextmanager
def refusing_server():
    import http.server

    from real_stores import _Quiet, _serving

    class Refusing(_Quiet):
        def do_GET(self):  # noqa: N802 - the library's name
            self.send_error(401, "Anonymous caller does not have storage.objects.list access")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    with _serving(server):
        yield f"http://127.0.0.1:{server.server_port}"
