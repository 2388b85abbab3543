"""What is tried, what is chosen, and one tuning against the real server."""

import shutil

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from salf_contract import (
    ConfigError,
    Trial,
    Tuning,
    TuningError,
    parse_tuning,
    seal_is_intact,
    tuning_file,
    with_tuning,
)
from salf_serving import tuning
from salf_serving.errors import RepositoryError, TuningFailedError
from salf_serving.load import Load
from salf_serving.tuning import TuningGoal, tune
from salf_serving.tuning_search import best_trial, search

SOME = Tuning(max_batch_size=4, instances=1, threads=2, max_queue_delay_microseconds=100)


def run_search(speed, *, cores=4, concurrency=8, bound_ms=1e9):
    """Go through a search whose trials cost nothing; `speed` gives (pictures/s, p95 ms)."""
    candidates = search(cores=cores, concurrency=concurrency)
    trials = []
    settings = next(candidates)
    while True:
        rate, p95_ms = speed(settings)
        trials.append(
            Trial(
                settings=settings,
                pictures_per_s=rate,
                p50_ms=p95_ms,
                p95_ms=p95_ms,
                requests=1,
                fits=p95_ms <= bound_ms,
            )
        )
        try:
            settings = candidates.send(trials[-1])
        except StopIteration:
            return trials


def test_the_search_finds_a_best_that_lies_on_no_coarse_step():
    best = Tuning(max_batch_size=6, instances=3, threads=1, max_queue_delay_microseconds=200)

    def speed(settings):
        distance = abs(settings.max_batch_size - 6) + 3 * abs(settings.instances - 3) + abs(settings.threads - 1)
        return 1000 - 10 * distance - abs(settings.max_queue_delay_microseconds - 200) / 100, 1.0

    trials = run_search(speed)
    assert best_trial(trials).settings == best
    assert len({trial.settings for trial in trials}) == len(trials) < 60


@pytest.mark.parametrize("cores", [1, 2, 6])
@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_nothing_is_tried_that_the_machine_or_the_load_cannot_fill(cores, concurrency):
    trials = run_search(
        lambda settings: (settings.threads * settings.instances, 1.0), cores=cores, concurrency=concurrency
    )
    assert len(trials) >= min(cores, concurrency)
    for trial in trials:
        assert trial.settings.instances * trial.settings.threads <= cores
        assert trial.settings.max_batch_size <= concurrency


def test_the_fastest_within_the_bound_wins_over_a_faster_one():
    trials = run_search(lambda settings: (settings.max_batch_size, 10.0 * settings.max_batch_size), bound_ms=45)
    assert best_trial(trials).settings.max_batch_size == 4
    slow = run_search(lambda settings: (settings.max_batch_size, 10.0 * settings.max_batch_size), bound_ms=5)
    assert best_trial(slow).p95_ms == 10.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"p95_bound_ms": 0}, "bound of p95 is 0 ms"),
        ({"p95_bound_ms": float("nan")}, "bound of p95"),
        ({"p95_bound_ms": 5, "concurrency": 0}, "concurrency is 0"),
        ({"p95_bound_ms": 5, "budget_s": 1}, "budget is 1 s"),
    ],
)
def test_a_goal_without_sense_is_refused(values, message):
    with pytest.raises(TuningFailedError, match=message):
        TuningGoal(**values)


def test_settings_are_written_as_triton_reads_them(config):
    best = Tuning(max_batch_size=5, instances=2, threads=3, max_queue_delay_microseconds=0)
    before = text_format.Parse(config, model_config_pb2.ModelConfig())
    after = text_format.Parse(with_tuning(config, best), model_config_pb2.ModelConfig())
    assert (after.max_batch_size, after.instance_group[0].count, len(after.instance_group)) == (5, 2, 1)
    assert after.instance_group[0].kind == before.instance_group[0].kind
    assert list(after.dynamic_batching.preferred_batch_size) == [2, 5]
    assert after.parameters["intra_op_thread_count"].string_value == "3"
    assert (list(after.input), list(after.output)) == (list(before.input), list(before.output))
    with pytest.raises(ConfigError, match="'tensorrt_plan'"):
        with_tuning(config.replace("onnxruntime", "tensorrt_plan"), best)


def test_what_cannot_be_tuned_is_refused(tiny, tmp_path):
    goal = TuningGoal(p95_bound_ms=100)
    with pytest.raises(RepositoryError, match="no model 'tiny'"):
        tune(tmp_path, "tiny", goal)
    tiny.write(tmp_path, probe=None)
    with pytest.raises(RepositoryError, match=r"has no probe\.npz"):
        tune(tmp_path, "tiny", goal)
    shutil.rmtree(tmp_path / "tiny/1")
    with pytest.raises(RepositoryError, match=r"serves none of those that are there \(none\); let its version_policy"):
        tune(tmp_path, "tiny", goal)
    (tmp_path / "tiny/config.pbtxt").write_text("name: {")
    with pytest.raises(RepositoryError, match="cannot be read"):
        tune(tmp_path, "tiny", goal)
    with pytest.raises(TuningError, match="tune again"):
        parse_tuning(b"{}")


@pytest.mark.parametrize(
    ("latencies_ms", "failures", "fits"),
    [([10.0] * 95 + [90.0] * 5, 0, True), ([10.0] * 90 + [90.0] * 10, 0, False), ([10.0] * 100, 1, False)],
)
def test_settings_fit_that_keep_the_bound_and_answer_every_request(latencies_ms, failures, fits):
    load = Load(np.array(latencies_ms), 2.0, 1, 100, failures, "full" if failures else "")
    trial = tuning._judge("tiny", SOME, load, TuningGoal(p95_bound_ms=50))
    assert (trial.fits, trial.requests, trial.pictures_per_s) == (fits, 100, 50)
    nothing = Load(np.array([]), 2.0, 1, 3, 0, "")
    with pytest.raises(TuningFailedError, match="tiny answered nothing within 2 s"):
        tuning._judge("tiny", SOME, nothing, TuningGoal(p95_bound_ms=50))


@pytest.fixture
def measured(monkeypatch):
    """Trials that cost nothing; calls what is appended to it before each."""
    before_each = []

    def measure(folder, config, version, settings, goal):
        for call in before_each:
            call()
        rate = settings.instances + settings.threads + settings.max_batch_size
        return Trial(settings=settings, pictures_per_s=rate, p50_ms=1, p95_ms=1, requests=9, fits=True)

    monkeypatch.setattr(tuning, "_try", measure)
    return before_each


def test_every_axis_is_tried_and_all_of_it_is_told(tiny, tmp_path, measured, monkeypatch):
    monkeypatch.setattr(tuning, "usable_cores", lambda: 4)
    tiny.write(tmp_path)
    tune(tmp_path, "tiny", TuningGoal(p95_bound_ms=50))
    record = parse_tuning((tmp_path / "tiny" / tuning_file(1)).read_bytes())
    for axis in Tuning.model_fields:
        assert len({getattr(trial.settings, axis) for trial in record.trials}) >= 3, axis
    assert record.best == best_trial(record.trials).settings
    assert (record.model, record.version, record.p95_bound_ms, record.machine["cores"]) == ("tiny", 1, 50, "4")


def test_a_dry_run_changes_nothing(tiny, tmp_path, measured):
    tiny.write(tmp_path)
    before = (tmp_path / "tiny/config.pbtxt").read_text()
    assert tune(tmp_path, "tiny", TuningGoal(p95_bound_ms=50), write=False).trials
    assert (tmp_path / "tiny/config.pbtxt").read_text() == before
    assert not (tmp_path / "tiny" / tuning_file(1)).exists()


def test_a_config_that_was_changed_meanwhile_is_not_overwritten(tiny, tmp_path, measured):
    tiny.write(tmp_path)
    path = tmp_path / "tiny/config.pbtxt"
    changed = path.read_text() + "# by somebody else\n"
    measured.append(lambda: path.write_text(changed))
    with pytest.raises(RepositoryError, match="was changed while tiny was tuned; tune it again"):
        tune(tmp_path, "tiny", TuningGoal(p95_bound_ms=50))
    assert path.read_text() == changed
    assert not (tmp_path / "tiny" / tuning_file(1)).exists()


@pytest.mark.slow
def test_a_model_is_tuned_on_the_real_server(tiny, runtime, tmp_path):
    tiny.write(tmp_path)
    before = (tmp_path / "tiny/config.pbtxt").read_text()
    seen = []
    goal = TuningGoal(p95_bound_ms=10_000, concurrency=2, budget_s=10)
    record = tune(tmp_path, "tiny", goal, on_trial=lambda trial, elapsed_s: seen.append(trial))
    assert record.trials == tuple(seen)
    assert all(trial.requests > 10 and trial.pictures_per_s > 0 for trial in record.trials)
    assert parse_tuning((tmp_path / "tiny" / tuning_file(1)).read_bytes()) == record
    after = (tmp_path / "tiny/config.pbtxt").read_text()
    assert after != before
    assert seal_is_intact(after)
    parsed = text_format.Parse(after, model_config_pb2.ModelConfig())
    assert (parsed.max_batch_size, parsed.instance_group[0].count) == (
        record.best.max_batch_size,
        record.best.instances,
    )
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["1", "config.pbtxt", "tuning_v1.json"]


@pytest.mark.slow
def test_a_bound_that_nothing_keeps_changes_nothing(tiny, runtime, tmp_path):
    tiny.write(tmp_path)
    with pytest.raises(TuningFailedError, match=r"within 0\.001 ms"):
        tune(tmp_path, "tiny", TuningGoal(p95_bound_ms=0.001, concurrency=1, budget_s=10))
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["1", "config.pbtxt"]
