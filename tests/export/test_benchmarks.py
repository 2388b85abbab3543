"""The benchmarks' own arithmetic, and the one that is quick enough to run whole."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def test_ratios_are_taken_within_rounds():
    from benchmarks.interleaved import Timings

    # The machine slows down tenfold half way; the ratio does not notice.
    base = [1.0] * 5 + [10.0] * 5
    value, (low, high) = Timings({"a": tuple(1.5 * t for t in base), "b": tuple(base)}).ratio("a", "b")
    assert (value, low, high) == (1.5, 1.5, 1.5)


def test_every_contender_runs_once_a_round_and_warm_up_is_not_counted():
    from benchmarks.interleaved import time_interleaved

    calls: list[str] = []
    timings = time_interleaved({n: lambda n=n: calls.append(n) for n in "abc"}, rounds=4, warm_up=2)
    assert all(sorted(calls[start : start + 3]) == ["a", "b", "c"] for start in range(0, 18, 3))
    assert {len(values) for values in timings.seconds.values()} == {4}


def test_a_wrong_or_empty_answer_is_not_timed():
    from benchmarks.explain_cost import check_answers
    from benchmarks.report import CannotMeasureError

    class Session:
        def __init__(self, **outputs):
            self.outputs = outputs

        def get_inputs(self):
            return []

        def get_outputs(self):
            return [type("Output", (), {"name": name}) for name in self.outputs]

        def run(self, _names, _feed):
            return list(self.outputs.values())

    logits = np.array([[1.0, 3.0]], np.float32)
    good = {
        "logits": logits,
        "target_class": np.array([[1]]),
        "bias": np.array([[0.5]], np.float32),
        "top_contributions": np.array([[2.0, 0.4]], np.float32),
        "rest_contribution": np.array([[0.1]], np.float32),
        "coverage": np.array([[0.96]], np.float32),
        "top_concepts": np.array([[4, 7]]),
        "top_maps": np.ones((1, 2, 1, 1), np.float32),
    }
    plain = Session(logits=logits)

    def check(**changed):
        check_answers(
            {"logits": plain, "all_maps": plain, "explain": Session(**good | changed), "dense_head": Session(**good)},
            np.zeros((1, 2, 2, 3), np.uint8),
        )

    check()
    for changed in (
        {"logits": logits + 1},
        {"bias": good["bias"] + 1},
        {"top_concepts": np.array([[4, -1]])},
        {"top_maps": np.zeros((1, 2, 1, 1), np.float32)},
    ):
        with pytest.raises(CannotMeasureError):
            check(**changed)


def test_answer_size_writes_one_json_object(tmp_path):
    file = tmp_path / "size.json"
    subprocess.run([sys.executable, "-m", "benchmarks", "answer_size", "--json", str(file)], check=True, cwd=ROOT)
    result = json.loads(file.read_text())
    assert {"name", "machine", "versions", "runs", "figures", "spread"} <= set(result)
    assert {"cores", "cpu", "features", "memory_gib"} == set(result["machine"])
    # 4 KB of logits and 3 KB of maps are in it: less would be an empty answer.
    assert 7200 < result["figures"]["default_answer_bytes"] <= 10 * 1024
    assert result["figures"]["all_maps_bytes"] > 4741 * 49 * 4
    assert set(result["spread"]) == set(result["figures"])


def test_the_page_lists_every_benchmark_once():
    from benchmarks.__main__ import NAMES

    page = (ROOT / "benchmarks/README.md").read_text()
    table = page.partition("| name | measures |")[2].partition("\n\n")[0]
    listed = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(NAMES)


def test_an_unknown_benchmark_is_an_error(tmp_path):
    done = subprocess.run([sys.executable, "-m", "benchmarks", "nope"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "explain_cost" in done.stderr


def test_under_overload_only_right_answers_in_time_are_good():
    import grpc
    from tritonclient.grpc import service_pb2

    from benchmarks.overload import DEADLINE_S, Question, Tally, _count_answer, _count_error

    question = Question(b"", np.array([1.0, 2.0], np.float32))

    def answer(logits):
        message = service_pb2.ModelInferResponse()
        message.outputs.add().name = "bias"
        message.outputs.add().name = "logits"
        message.raw_output_contents.extend([b"", np.array(logits, np.float32).tobytes()])
        return message.SerializeToString()

    tally = Tally()
    _count_answer(tally, question, answer([1.0, 2.0]), 0.1)
    _count_answer(tally, question, answer([1.0, 2.0]), DEADLINE_S + 0.1)
    _count_answer(tally, question, answer([2.0, 1.0]), 0.1)
    assert (tally.good_s, tally.late, tally.wrong) == ([0.1], 1, 1)

    class Ended(grpc.RpcError):
        def __init__(self, code):
            self.code = lambda: code

    tally = Tally()
    _count_answer(tally, question, answer([1.0, 2.0]), DEADLINE_S + 0.1)
    _count_error(tally, Ended(grpc.StatusCode.DEADLINE_EXCEEDED), DEADLINE_S)
    _count_error(tally, Ended(grpc.StatusCode.RESOURCE_EXHAUSTED), 0.01)
    assert tally.accepted_s == [DEADLINE_S + 0.1, DEADLINE_S], "what was accepted and came late is in the percentile"


def test_a_served_answer_that_differs_is_not_timed():
    from benchmarks.report import CannotMeasureError
    from benchmarks.serve_overhead import check_answers

    local = {"logits": np.array([[1.0, 2.0]], np.float32), "top_maps": np.ones((1, 1, 2, 2), np.float32)}
    check_answers(local, local)
    for served in (
        {"logits": local["logits"]},
        local | {"logits": np.zeros((1, 0), np.float32)},
        local | {"logits": np.array([[1.0, np.nan]], np.float32)},
        local | {"logits": np.array([[1.0, 2.1]], np.float32)},
    ):
        with pytest.raises(CannotMeasureError):
            check_answers(served, local)


def test_the_sdks_overhead_is_measured_on_right_answers_only():
    from benchmarks.report import CannotMeasureError
    from benchmarks.sdk_overhead import _result, _Times, check_answers
    from salf_client import Client
    from salf_client.testing import mock_server

    with mock_server() as server, Client(server.address) as client:
        explanation = client.explain(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    shown = np.array([[one.contribution for one in explanation.concepts]], np.float32)
    maps = np.array([[one.map for one in explanation.concepts]])
    good = {"top_contributions": shown, "logits": explanation.logits[None], "top_maps": maps}
    check_answers(good, explanation)
    for changed in ({"top_contributions": shown + 1}, {"logits": good["logits"] + 1}, {"top_maps": maps * 0}):
        with pytest.raises(CannotMeasureError):
            check_answers(good | changed, explanation)

    bare, sdk = _Times([[0.010] * 3] * 5, [1.0] * 5), _Times([[0.0102] * 3] * 5, [1.05] * 5)
    result = _result({"bare": bare, "sdk": sdk}, rounds=5)
    assert result.figures == pytest.approx({"added_p50_ms": 0.2, "cpu_ratio": 1.05})


def test_processor_time_is_told_apart_by_who_spends_it():
    from benchmarks.processor_time import cpu_ms_since, cpu_seconds

    # This process stands for Triton, its children for the stubs; the decoders' name their backend.
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    before = cpu_seconds(os.getpid())
    children = [
        subprocess.Popen([sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("onnxruntime", "onnxruntime", "salf_encoded")
    ]
    try:
        for child in children:
            child.stdout.readline()
        spent = cpu_ms_since(before, server_pid=os.getpid(), pictures=10)
    finally:
        for child in children:
            child.communicate(b"\n")
    assert 50 <= spent["backend"] < 120  # the kernel counts in ticks of 10 ms
    assert 25 <= spent["decoders"] < 60


def test_the_opponent_of_the_encoded_path_takes_the_faster_batches(monkeypatch: pytest.MonkeyPatch):
    from benchmarks.encoded_path import BATCHES, InProcess, jpegs
    from salf_contract import parse_metadata

    folder = ROOT / "model_repository/scenes/1"
    document = parse_metadata((folder / "metadata.json").read_bytes())
    opponent, files = InProcess((folder / "model.onnx").read_bytes(), document.preparation), jpegs(5)
    answers = []
    for batch in BATCHES:
        opponent.batch = batch
        answers.append(np.concatenate([one["logits"] for one in opponent.explain(files)]))
    assert len(answers[0]) == 5
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3)
    for fast in BATCHES:
        monkeypatch.setattr(opponent, "_explain", lambda _files, batch, fast=fast: time.sleep(0.02 * (batch != fast)))
        opponent.choose_batch(files)
        assert opponent.batch == fast
