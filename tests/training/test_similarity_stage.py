"""The similarity stage as a process: killed and run again, weighed, damaged, and run by two at a time."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import table_kills
import torch
from picture_files import ColourEncoder, write_noise
from similarity_runs import run, run_weighed
from table_kills import rows_from

from salf_contract import Preparation
from salf_training.embeddings import (
    LocalSimilarities,
    cached_prompt_embeddings,
    iter_local_similarities,
    local_similarities,
)
from salf_training.errors import DataError, SettingsError
from salf_training.prompts import BlurSettings, CircleSettings, CropSettings
from salf_training.resumable_table import filled_table

PICTURES, BATCH_S = 1600, 0.02  # 400 batches: 8 seconds of work at the least


@pytest.fixture(scope="module")
def processes():
    """Processes forked from a clean one that has already imported what they need: torch takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["similarity_runs"])
    with pytest.MonkeyPatch.context() as patch:  # Python 3.11's server does not take over sys.path
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        forkserver.ensure_running()
    return context


def table_file(cache):
    (found,) = cache.glob("embeddings-*/table.npy")
    return found


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_no_trace_in_the_bytes(tmp_path, processes):
    paths = write_noise(tmp_path / "in", count=PICTURES, size=(16, 16))
    run(tmp_path / "undisturbed", paths, 0.0)
    cache, progress = tmp_path / "cache", tmp_path / "progress"
    progress.touch()
    generator, resumed_from = random.Random(5), []
    for kill in range(10):
        before = progress.read_text().count("\n")
        process = processes.Process(target=run, args=(cache, paths, BATCH_S, progress))
        process.start()
        # Every other time in the first steps of work, however long the process takes to get there; else at any moment
        # from its start on.
        deadline = time.monotonic() + 60
        while kill % 2 and process.is_alive() and progress.read_text().count("\n") == before:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 5 * BATCH_S))
        assert process.is_alive(), "it finished before it could be killed ten times"
        process.kill()
        process.join()
        assert process.exitcode == -9
        told = [int(line) for line in progress.read_text().split()]
        resumed_from += told[before : before + 1]
    run(cache, paths, 0.0, progress)
    assert table_file(cache).read_bytes() == table_file(tmp_path / "undisturbed").read_bytes()
    # Each run went on from what the one before it had on disk: none started anew once there was something.
    assert resumed_from == sorted(resumed_from)
    assert resumed_from[-1] > 4, "nothing was resumed"


@pytest.mark.slow
def test_a_table_survives_a_kill_at_any_line_twice(tmp_path):
    subprocess.run([sys.executable, table_kills.__file__, tmp_path], check=True, timeout=300)
    expected, folders = np.concatenate(list(rows_from(0))), [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(folders) > 80, "every step of lock, header, rows, note and resumption is a line"
    for folder in folders:
        resumed_at = []
        table = filled_table(
            folder,
            lambda start, resumed_at=resumed_at: resumed_at.append(start) or rows_from(start),
            rows=14,
            on_rows=lambda _: None,
            sync_every_s=0,
        )
        assert np.array_equal(table, expected), folder
        # Rows that were told of were on disk and noted: nothing computes them again.
        told = folder.with_suffix(".done")
        assert min(resumed_at, default=14) >= (int(told.read_text() or 0) if told.exists() else 0), folder


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path, processes):
    (path,) = write_noise(tmp_path / "in", count=1, size=(16, 16))
    largest = {}
    for count in (1_000, 10_000):
        process = processes.Process(
            target=run_weighed, args=(tmp_path / str(count), path, count, tmp_path / f"{count}.txt")
        )
        process.start()
        process.join(timeout=120)
        assert process.exitcode == 0
        largest[count] = int((tmp_path / f"{count}.txt").read_text())
    assert largest[10_000] < 1.05 * largest[1_000], largest


def embed(cache, paths, encoder, circles=None, **options):
    circles = circles or CircleSettings(rows=2, columns=3)
    options = {"preparation": Preparation(height=32, width=32), "batch_size": 3, **options}
    return cached_prompt_embeddings(cache, paths, encoder, circles, **options)


@pytest.mark.parametrize("prompt", [CropSettings(rows=2, columns=3), BlurSettings(rows=2, columns=3)])
def test_other_prompts_have_tables_of_their_own(tmp_path, prompt):
    paths = write_noise(tmp_path / "in", count=4)
    circled = np.array(embed(tmp_path / "cache", paths, ColourEncoder()))
    table = embed(tmp_path / "cache", paths, ColourEncoder(), prompt)
    assert table.shape == circled.shape
    assert not np.array_equal(table, circled)
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("devices", [2, 3])
def test_several_encoders_give_the_bytes_of_one_in_the_same_order(tmp_path, devices):
    paths = write_noise(tmp_path / "in", count=17)
    alone = np.array(embed(tmp_path / "alone", paths, ColourEncoder()))
    encoders = [ColourEncoder() for _ in range(devices)]
    told = []
    together = embed(tmp_path / "together", paths, encoders, on_progress=lambda *now: told.append(now[1]))
    assert together.tobytes() == alone.tobytes()
    assert told == [3, 6, 9, 12, 15, 17]
    assert all(encoder.pictures_embedded >= 3 * 6 for encoder in encoders), "all of them must work"


def test_one_of_several_encoders_failing_ends_the_run_and_the_next_goes_on(tmp_path):
    paths = write_noise(tmp_path / "in", count=12)
    encoders = [ColourEncoder(), ColourEncoder()]
    encoders[1].fails_after = 6 * 3
    with pytest.raises(RuntimeError, match="power"):
        embed(tmp_path / "cache", paths, encoders)
    told = []
    resumed = embed(tmp_path / "cache", paths, ColourEncoder(), on_progress=lambda *now: told.append(now[1]))
    assert told[0] == 9, "the three batches before the failed one count"
    assert resumed.tobytes() == embed(tmp_path / "alone", paths, ColourEncoder()).tobytes()


def test_encoders_that_differ_are_refused(tmp_path):
    paths = write_noise(tmp_path / "in", count=2)
    for encoders in ([ColourEncoder(), ColourEncoder(fingerprint="other")], []):
        with pytest.raises(SettingsError, match="equal weights and settings"):
            embed(tmp_path / "cache", paths, encoders)


def test_no_pictures_are_refused(tmp_path):
    with pytest.raises(DataError, match="no pictures"):
        embed(tmp_path / "cache", [], ColourEncoder())


def interrupted(tmp_path):
    """A cache of 11 pictures of which 6 are done."""
    paths = write_noise(tmp_path / "in", count=11)
    encoder = ColourEncoder()
    encoder.fails_after = 6 * 6
    with pytest.raises(RuntimeError, match="power"):
        embed(tmp_path / "cache", paths, encoder)
    return paths


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("damage", ["bit", "cut", "header", "gone", "note", "other note"])
def test_a_damaged_cache_is_noticed_and_named(tmp_path, finished, damage):
    paths = interrupted(tmp_path)
    if finished:
        embed(tmp_path / "cache", paths, ColourEncoder())
    file = table_file(tmp_path / "cache")
    whole, note = file.read_bytes(), file.with_name("note.json")
    if damage == "bit":
        file.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    elif damage == "cut":
        file.write_bytes(whole[: 128 + 5 * 6 * 27 * 2])
    elif damage == "header":
        file.write_bytes(b"x" + whole[1:])
    elif damage == "gone":
        file.unlink()
    elif damage == "note":
        note.write_text("{")
    else:
        note.write_text(json.dumps({**json.loads(note.read_text()), "rows": 12}))
    with pytest.raises(DataError, match=r"remove .*embeddings-"):
        embed(tmp_path / "cache", paths, ColourEncoder())


def test_bytes_that_do_not_count_yet_are_replaced(tmp_path):
    """As after a kill between writing rows and noting them."""
    paths = interrupted(tmp_path)
    with table_file(tmp_path / "cache").open("ab") as file:
        file.write(b"half a row")
    encoder = ColourEncoder()
    resumed = embed(tmp_path / "cache", paths, encoder)
    assert encoder.pictures_embedded == 5 * 6
    assert resumed.tobytes() == embed(tmp_path / "other", paths, ColourEncoder()).tobytes()


def test_two_at_a_time_are_refused(tmp_path):
    paths = write_noise(tmp_path / "in", count=4)

    def meanwhile(_stage, done, total):
        if done < total:
            with pytest.raises(DataError, match="another process is filling"):
                embed(tmp_path / "cache", paths, ColourEncoder())
            met.append(done)

    met = []
    embed(tmp_path / "cache", paths, ColourEncoder(), on_progress=meanwhile)
    assert met == [3]


def test_a_complete_table_is_read_by_any_number_also_where_nothing_can_be_written(tmp_path):
    paths = write_noise(tmp_path / "in", count=4)
    embed(tmp_path / "cache", paths, ColourEncoder())
    lock = table_file(tmp_path / "cache").with_name("lock")
    lock.unlink()
    lock.mkdir()  # even root cannot write there
    assert len(embed(tmp_path / "cache", paths, ColourEncoder())) == 4


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    paths = write_noise(tmp_path / "in", count=1)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cache.* cannot be written.*another place"):
        embed(tmp_path / "cache", paths, ColourEncoder())


def test_an_encoder_that_changes_its_width_is_noticed(tmp_path):
    with pytest.raises(DataError, match=r"have shape \(3,\), expected \(2,\)"):
        filled_table(
            tmp_path / "t",
            lambda _: iter([np.zeros((2, 2), np.float16), np.zeros((2, 3), np.float16)]),
            rows=4,
            on_rows=lambda _: None,
            sync_every_s=1,
        )


def test_a_disk_that_is_too_small_is_noticed_before_the_work(tmp_path):
    with pytest.raises(DataError, match=r"needs .* GB, but its disk has"):
        filled_table(
            tmp_path / "t",
            lambda _: iter([np.zeros((1, 10**6), np.float16)]),
            rows=10**9,
            on_rows=lambda _: None,
            sync_every_s=1,
        )


def test_similarities_come_in_chunks_or_as_asked_for_and_are_those_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(7, 4, 8, generator=generator), dim=-1).numpy()
    texts = torch.nn.functional.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    embeddings = embeddings.astype(np.float16)
    chunks = list(iter_local_similarities(embeddings, texts, pictures=3))
    assert [(chosen.start, chosen.stop) for chosen, _ in chunks] == [(0, 3), (3, 6), (6, 7)]
    together, whole = torch.cat([similarities for _, similarities in chunks]), local_similarities(embeddings, texts)
    assert together.numpy() == pytest.approx(whole.numpy(), abs=1e-6)
    asked_for = LocalSimilarities(embeddings, texts)
    assert asked_for.shape == tuple(whole.shape)
    some = torch.tensor([5, 0, 5])
    assert asked_for[some].numpy() == pytest.approx(whole[some].numpy(), abs=1e-6)
