"""Pages about scored stores."""

import errno
import functools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from salf_batch import Settings, StoreUnavailableError, TargetWriteError, reporting, score, write_report
from salf_client.testing import mock_server


def test_a_report_that_cannot_be_written_leaves_the_old_one(folder, tmp_path, settings, monkeypatch):
    score(str(folder / "farm.jpg"), str(tmp_path / "scored"), settings)
    page = tmp_path / "report.html"
    page.write_text("the old one")

    def full(self, *_args, **_options):
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(TargetWriteError, match=r"report\.html cannot be written \(No space left"):
        write_report(str(tmp_path / "scored"), page)
    assert page.read_text() == "the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "report.html", "scored"]


def test_a_report_shows_classes_reasons_and_pictures_and_needs_no_other_file(folder, tmp_path, settings):
    score(str(folder), str(tmp_path / "scored"), settings)
    (folder / "farm.jpg").unlink()
    page = tmp_path / "report.html"
    seen = write_report(str(tmp_path / "scored"), page, shown=6)
    text = page.read_text()
    assert seen.rows == 7
    assert {"farm", "harbour", "camp"} <= seen.classes.keys()
    assert "not there any more" in text
    assert text.count("data:image/jpeg;base64,") == 3 * 5
    assert "broken.jpg" in text
    assert "truncated" in text
    assert all(word not in text for word in ("<script", "<link", 'src="http'))


def test_a_report_of_errors_only_shows_them_and_no_empty_tables(tmp_path, settings):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    score(str(tmp_path / "photos"), str(tmp_path / "scored"), settings)
    write_report(str(tmp_path / "scored"), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "No picture has an answer." in text
    assert "are no picture that can be read" in text
    assert "Unsure" not in text
    assert text.count("<h2>") == 1


def test_a_store_that_does_not_answer_says_nothing_of_others_of_its_kind(folder, tmp_path, monkeypatch):
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    dead, load_uri = "http://127.0.0.1", reporting.load_uri

    def loaded(uri, **options):
        if uri.startswith(dead):
            raise StoreUnavailableError("it does not answer")
        return load_uri(uri, **options)

    monkeypatch.setattr(reporting, "load_uri", loaded)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web, mock_server() as server:
        threading.Thread(target=web.serve_forever).start()
        try:
            addresses = [f"{host}:{web.server_port}/farm.jpg" for host in (dead, "http://localhost")]
            (folder / "list.txt").write_text("\n".join(addresses))
            score(str(folder / "list.txt"), str(tmp_path / "scored"), Settings(url=server.address))
            write_report(str(tmp_path / "scored"), tmp_path / "report.html")
        finally:
            web.shutdown()
    text = (tmp_path / "report.html").read_text()
    assert text.count("store does not answer") == text.count("data:image/jpeg;base64,") == 3


def test_a_report_waits_once_for_a_store_that_does_not_answer(folder, tmp_path, settings, monkeypatch):
    score(str(folder), str(tmp_path / "scored"), settings)
    asked, told = [], []

    def gone(uri, **_options):
        asked.append(uri)
        raise StoreUnavailableError("it does not answer")

    monkeypatch.setattr(reporting, "load_uri", gone)
    page = tmp_path / "report.html"
    write_report(str(tmp_path / "scored"), page, shown=6, report=told.append)
    assert len(asked) == 1
    assert page.read_text().count("store does not answer") == 3 * 6
    assert told[0] == "reading rows"
    assert told[-1] == "reading pictures (6 of 6)"
