import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from scored_stores import jpeg

from salf_batch import (
    InvalidSourceError,
    MissingExtraError,
    SourceNotThereError,
    StoreUnavailableError,
    UnreadableInputError,
)
from salf_batch.sources import load_uri, open_source


def loaded(source):
    return [(one.uri, one.load()) for one in source.again()]


def tar_of(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_a_folder_lists_its_pictures_sorted_and_nothing_else(folder):
    source = open_source(str(folder))
    uris = [one.uri.removeprefix(f"{folder}/") for one in source.again()]
    assert uris == ["airfield.jpg", "broken.jpg", "farm.jpg", "b/camp.jpg", "b/harbour.jpg", "b/deep/fair.jpg",
                    "b/deep/street.jpg"]  # fmt: skip
    assert source.count == 7
    assert loaded(source)[0][1] == (folder / "airfield.jpg").read_bytes()


def test_linked_folders_belong_to_a_folder_and_a_circle_of_links_ends(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "linked.jpg").write_bytes(jpeg(1))
    (folder / "b" / "more").symlink_to(elsewhere)
    before = [one.uri for one in open_source(str(folder)).again()]
    assert f"{folder}/b/more/linked.jpg" in before
    (elsewhere / "back").symlink_to(folder)
    (folder / "b" / "broken").symlink_to(tmp_path / "nowhere")
    assert [one.uri for one in open_source(str(folder)).again()] == before


def test_the_fingerprint_tells_sources_apart(folder):
    first = open_source(str(folder))
    assert open_source(str(folder)).fingerprint == first.fingerprint
    (folder / "new.jpg").write_bytes(jpeg(2))
    assert open_source(str(folder)).fingerprint != first.fingerprint


def test_globs_and_single_files_are_sources(folder):
    uris = [one.uri for one in open_source(f"{folder}/**/f*.jpg").again()]
    assert uris == sorted([f"{folder}/farm.jpg", f"{folder}/b/deep/fair.jpg"])
    assert open_source(str(folder / "farm.jpg")).count == 1


def test_names_with_the_marks_of_a_glob_are_what_lies_there_under_them(folder):
    odd = folder / "photos [2024]"
    odd.mkdir()
    (odd / "boat [1].jpg").write_bytes(jpeg(1))
    for name in (odd, odd / "boat [1].jpg", f"{odd.parent}/photos*/*.jpg"):
        assert [uri for uri, _ in loaded(open_source(str(name)))] == [f"{odd}/boat [1].jpg"]


def test_a_series_of_tars_gives_its_pictures_in_order(tmp_path):
    for shard in range(2):
        members = {f"{shard}{k}.{end}": jpeg(10 * shard + k) if end == "jpg" else b"{}" for k in range(3) for end in
                   ("jpg", "json")}  # fmt: skip
        tar_of(tmp_path / f"shard-{shard:03d}.tar", members)
    source = open_source(f"{tmp_path}/shard-{{000..001}}.tar")
    first = tmp_path / "shard-000.tar"
    assert source.kind == "tar"
    assert [uri for uri, _ in loaded(source)][:3] == [f"{first}#00.jpg", f"{first}#01.jpg", f"{first}#02.jpg"]
    assert [data for _, data in loaded(source)] == [jpeg(seed) for seed in (0, 1, 2, 10, 11, 12)]
    assert load_uri(f"{first}#01.jpg") == jpeg(1)
    assert open_source(f"{tmp_path}/*.tar").fingerprint == source.fingerprint


@pytest.mark.parametrize("is_struct", [False, True])
def test_a_parquet_column_of_bytes_or_structs_gives_its_rows(tmp_path, is_struct):
    pictures = [jpeg(seed) for seed in range(5)]
    values = [{"bytes": data, "path": "x.jpg"} for data in pictures] if is_struct else list(pictures)
    path = tmp_path / "photos.parquet"
    parquet.write_table(pa.table({"image": [*values, None]}), path, row_group_size=2)
    *good, empty = open_source(str(path)).again()
    assert [one.load() for one in good] == pictures
    assert good[3].uri == f"{path}#3"
    with pytest.raises(UnreadableInputError, match="no picture"):
        empty.load()
    assert load_uri(f"{path}#3") == pictures[3]


def test_a_parquet_without_the_column_names_those_it_has(tmp_path):
    path = tmp_path / "photos.parquet"
    parquet.write_table(pa.table({"photo": [jpeg(0)], "text": ["x"]}), path)
    with pytest.raises(InvalidSourceError, match=r"no column 'image'; it has: photo, text.*--column"):
        open_source(str(path))
    with pytest.raises(InvalidSourceError, match="expected binary"):
        open_source(str(path), column="text")
    assert open_source(str(path), column="photo").count == 1


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[jpeg(0)]], pa.list_(pa.binary())),
        ([[("k", jpeg(0))]], pa.map_(pa.string(), pa.binary())),
        ([{"data": jpeg(0)}], None),
        ([{"bytes": [jpeg(0)]}], None),
    ],
)
def test_a_parquet_column_that_only_holds_pictures_within_is_refused(tmp_path, values, kind):
    path = tmp_path / "photos.parquet"
    parquet.write_table(pa.table({"image": pa.array(values, kind)}), path)
    with pytest.raises(InvalidSourceError, match="expected binary, the pictures' bytes, or a struct"):
        open_source(str(path))


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_every_kind_of_bytes_is_a_column_of_pictures(tmp_path, kind):
    path = tmp_path / "photos.parquet"
    parquet.write_table(pa.table({"image": pa.array([jpeg(0)], kind)}), path)
    assert [one.load() for one in open_source(str(path)).again()] == [jpeg(0)]


def test_a_damaged_parquet_is_refused_or_gives_unreadable_inputs(tmp_path):
    path = tmp_path / "photos.parquet"
    parquet.write_table(pa.table({"image": [jpeg(0), jpeg(1)]}), path, compression="zstd")
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    path.write_bytes(whole[: -8 - footer] + b"\xff" * footer + whole[-8:])
    with pytest.raises(InvalidSourceError, match=r"photos\.parquet is no Parquet file"):
        open_source(str(path))
    path.write_bytes(whole[:4] + b"\xff" * (len(whole) - footer - 12) + whole[-8 - footer :])
    for one in open_source(str(path)).again():
        with pytest.raises(UnreadableInputError, match=r"row group 0 of .*photos\.parquet is damaged"):
            one.load()


def test_manifests_name_pictures_relative_to_themselves(folder):
    names = ["farm.jpg", "b/camp.jpg", str(folder / "airfield.jpg"), "farm.jpg"]
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("id", "path"), *enumerate(names)])
    (folder / "list.jsonl").write_text("".join(json.dumps({"id": 1, "path": name}) + "\n" for name in names))
    (folder / "list.txt").write_text("# pictures\n" + "\n".join(names) + "\n\n")
    expected = [str(folder / name) for name in names]
    for name in ("list.csv", "list.jsonl", "list.txt"):
        assert [uri for uri, _ in loaded(open_source(str(folder / name)))] == expected
    with pytest.raises(InvalidSourceError, match=r"no column picture; it has: id, path"):
        open_source(str(folder / "list.csv"), column="picture")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "holds no pictures"),
        ("bad.jsonl", b'{"path": "a.jpg"}\nnonsense\n', "line 2: no JSON"),
        ("bad2.jsonl", b'{"path": 3}\n', "expected a path or URL"),
        ("half.jsonl", b'{"path": "\\ud800.jpg"}\n', r"line 1: 'path' is '\\ud800.jpg', expected a path or URL"),
        ("deep.jsonl", b'{"path": ' + b"[" * 100_000, "line 1: no JSON"),
        ("bad.parquet", b"nonsense", "no Parquet file"),
        ("bad.tar", b"nonsense" * 200, "no uncompressed tar archive"),
        ("x.tar.gz", b"", "compressed archive"),
        ("x.zip", b"PK", "unpack"),
        ("x.tsv", b"path\na.jpg\n", "expected a folder"),
        ("bad.txt", b"\xff\xfe\x00", "no UTF-8"),
    ],
)
def test_sources_that_cannot_be_understood_are_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidSourceError, match=said):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("damage", [b"x" * 600, b"x" * 100])
def test_an_archive_that_is_damaged_within_does_not_end_there(tmp_path, damage):
    path = tmp_path / "photos.tar"
    tar_of(path, {f"{number}.jpg": b"x" * 1024 for number in range(3)})
    whole, second = path.read_bytes(), 512 + 1024
    path.write_bytes((whole[:second] + damage + whole[second + len(damage) :])[: second + max(len(damage), 512)])
    with pytest.raises(InvalidSourceError, match=r"photos\.tar is broken \(no member and no end at byte 1536\)"):
        open_source(str(path))
    path.write_bytes(whole[:second])  # without an end, as it is while somebody still writes it
    assert open_source(str(path)).count == 1


def test_a_sparse_member_of_an_archive_is_no_picture(tmp_path):
    with (tmp_path / "1.jpg").open("wb") as file:
        file.write(jpeg(1))
        file.truncate(2**20)
    subprocess.run(["tar", "--sparse", "-cf", "photos.tar", "1.jpg"], cwd=tmp_path, check=True)
    (one,) = open_source(f"{tmp_path}/photos.tar").again()
    with pytest.raises(UnreadableInputError, match=r"#1\.jpg is a sparse file"):
        one.load()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (one,) = open_source(str(tmp_path)).again()
    with pytest.raises(UnreadableInputError, match=r"pipe\.jpg is a pipe or a device"):
        one.load()


def test_an_address_that_no_store_can_answer_is_a_bad_input(tmp_path):
    class Answering(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if self.path == "/circle.jpg" else 418)
            self.send_header("Location", "/circle.jpg")
            self.end_headers()

        def log_message(self, *_): ...

    served = ("/circle.jpg", "/teapot.jpg")
    unserved = ("http://[broken", "http:///nowhere", "http://127.0.0.1:99999/x", "gopher://x/y")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{web.server_port}"
        (tmp_path / "list.txt").write_text("".join(f"{here}{name}\n" for name in served) + "\n".join(unserved))
        try:
            for one in open_source(str(tmp_path / "list.txt")).again():
                with pytest.raises(UnreadableInputError, match="check the address"):
                    one.load()
        finally:
            web.shutdown()


def test_only_a_source_that_may_still_come_is_worth_another_try(tmp_path):
    (tmp_path / "empty").mkdir()
    parquet.write_table(pa.table({"photo": [jpeg(0)]}), tmp_path / "photos.parquet")
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "bad.tar").write_bytes(b"nonsense" * 200)
    may_come = ("empty", "nowhere", "nowhere.parquet", "nowhere.txt", "empty/*.jpg")
    for name in (*may_come, "photos.parquet", "folder.parquet", "bad.tar", "x.zip", f"{'x' * 300}.txt"):
        with pytest.raises(InvalidSourceError) as caught:
            open_source(str(tmp_path / name))
        assert caught.value.is_lasting is (name not in may_come), name


@pytest.mark.parametrize(("status", "is_lasting"), [(404, False), (410, False), (401, True), (403, True)])
def test_an_address_that_is_closed_to_us_is_worth_no_other_try_and_one_that_is_not_there_is(status, is_lasting):
    class Answering(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        do_HEAD = do_GET  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as web:
        threading.Thread(target=web.serve_forever).start()
        try:
            with pytest.raises(InvalidSourceError) as caught:
                open_source(f"http://127.0.0.1:{web.server_port}/list.txt")
        finally:
            web.shutdown()
    assert caught.value.is_lasting is is_lasting


def test_a_glob_of_which_nobody_can_tell_whether_it_is_a_name_is_a_glob():
    """The name is too long to be asked for, an error as that below a folder which is closed to us."""
    with pytest.raises(SourceNotThereError, match="holds no pictures"):
        open_source(f"{'x' * 300}*.jpg")


def test_a_folder_that_vanishes_while_it_is_listed_is_worth_another_try(folder, monkeypatch):
    walk = os.walk

    def vanishing(*arguments, **options):
        for path, folders, names in walk(*arguments, **options):
            if path.endswith("/b"):
                shutil.rmtree(path)
            yield path, folders, names

    monkeypatch.setattr(os, "walk", vanishing)
    with pytest.raises(SourceNotThereError, match=r"/b cannot be listed \(No such file"):
        open_source(str(folder))


@pytest.mark.parametrize("scheme", ["ftp", "foo", "htps"])
def test_a_store_of_another_kind_is_refused_with_those_that_there_are(scheme, capfd):
    with pytest.raises(StoreUnavailableError, match=rf"{scheme}://.*s3://, gs://, az:// and https://"):
        open_source(f"{scheme}://host/photos")
    assert capfd.readouterr().err == ""


def test_sources_that_do_not_exist_are_refused(tmp_path):
    for name in ("nowhere", "nowhere.tar", "nowhere.csv", "nowhere/*.jpg"):
        with pytest.raises(InvalidSourceError):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs.core"), ("az", "adlfs")])
def test_a_store_whose_package_is_missing_names_the_extra(monkeypatch, scheme, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'salf\[{scheme}\]'"):
        open_source(f"{scheme}://bucket/photos")
