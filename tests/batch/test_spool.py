"""A source is listed once, and its inputs are read back as they were."""

import tempfile
from dataclasses import replace

import pytest

from salf_batch import TemporaryFilesError
from salf_batch.sources import Input, open_source
from salf_batch.spool import Spool
from salf_batch.stores import RetryCount, place_of


def test_inputs_come_back_in_order_as_often_as_wanted_and_share_one_count(tmp_path):
    retries = RetryCount()
    spool, place = Spool(retries), replace(place_of(str(tmp_path)), retries=retries)
    inputs = [Input(f"{number}.jpg", place.at(f"{tmp_path}/{number}.jpg").read) for number in range(2500)]
    for one in inputs:
        spool.add(one)
    for _ in range(2):
        found = list(spool.again())
        assert [one.uri for one in found] == [one.uri for one in inputs]
        assert found[1700].load.__self__ == inputs[1700].load.__self__
        assert all(one.load.__self__.retries is retries for one in found)


def test_a_full_disk_for_temporary_files_is_one_sentence(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b"))  # noqa: PTH123, SIM115
    source = open_source(str(folder))
    with pytest.raises(TemporaryFilesError, match=r"No space left.*TMPDIR"):
        list(source.again())


def test_a_picture_that_appears_after_the_listing_belongs_to_the_next_run(folder):
    source = open_source(str(folder))
    (folder / "aaa.jpg").write_bytes(b"new")
    assert len(list(source.again())) == source.count == 7
