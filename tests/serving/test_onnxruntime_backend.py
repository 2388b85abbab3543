"""The backend's own logic, outside Triton; test_requests.py runs it inside."""

import functools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from opened_backends import TritonModelException, load_tiny, opened, parameters, request

from salf_serving.command import BUDGET_VARIABLE, THREADS_VARIABLE


@pytest.fixture(scope="module")
def backend():
    with opened("onnxruntime") as module:
        yield module


def test_defaults_are_the_native_backends(backend):
    assert backend.parse_settings({}) == backend.Settings()


def test_threads_spin_for_a_moment_while_they_wait_and_never_between_runs(backend):
    options = backend._session_options(backend.Settings())
    assert 0 < int(options.get_session_config_entry("session.intra_op.spin_duration_us")) <= 100
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_the_native_names_are_read_and_ours_are_left_alone(backend):
    config = parameters(
        intra_op_thread_count="2", inter_op_thread_count="3", execution_mode="1", enable_mem_arena="0",
        enable_mem_pattern="false", salf_metadata_v1="{}", salf_anything="x",
    )  # fmt: skip
    config["parameters"]["session.use_device_allocator_for_initializers"] = {"string_value": "1"}
    config["parameters"]["memory.enable_memory_arena_shrinkage"] = {"string_value": "cpu:0"}
    config["optimization"] = {"graph": {"level": 1}}
    assert backend.parse_settings(config) == backend.Settings(
        intra_op_thread_count=2,
        inter_op_thread_count=3,
        parallel=True,
        optimization_level=1,
        enable_mem_arena=False,
        enable_mem_pattern=False,
        session_entries={"session.use_device_allocator_for_initializers": "1"},
        run_entries={"memory.enable_memory_arena_shrinkage": "cpu:0"},
    )


@pytest.mark.parametrize(
    ("asked", "insists", "instances", "threads"),
    [
        (None, False, 1, 4),
        (None, False, 3, 1),
        (None, False, 8, 1),
        ("1", False, 1, 1),
        ("3", False, 2, 2),
        ("1", True, 1, 4),
        ("8", True, 2, 2),
    ],
)
def test_instances_divide_the_budget_and_a_model_may_ask_for_less(backend, asked, insists, instances, threads):
    config = {} if asked is None else parameters(intra_op_thread_count=asked)
    config["instance_group"] = [{"kind": "KIND_CPU", "count": instances}]
    budget = backend.ThreadBudget(4, insists=insists)
    assert backend.parse_settings(config, budget=budget).intra_op_thread_count == threads


def test_what_the_budget_cuts_is_told_unless_the_operator_wanted_it(backend):
    config = parameters(intra_op_thread_count="8")
    assert backend.parse_settings(config, budget=backend.ThreadBudget(4)).ignored == ("intra_op_thread_count over 4",)
    assert backend.parse_settings(config, budget=backend.ThreadBudget(4, insists=True)).ignored == ()


def test_groups_of_instances_divide_the_budget_together(backend):
    config = {"instance_group": [{"count": 1}, {"kind": "KIND_CPU"}]}
    assert backend.parse_settings(config, budget=backend.ThreadBudget(4)).intra_op_thread_count == 2


def test_the_operators_number_wins_over_the_machines(backend, monkeypatch):
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    monkeypatch.delenv(BUDGET_VARIABLE, raising=False)
    assert backend.thread_budget() is None
    monkeypatch.setenv(BUDGET_VARIABLE, "4")
    assert backend.thread_budget() == backend.ThreadBudget(4)
    monkeypatch.setenv(THREADS_VARIABLE, "2")
    assert backend.thread_budget() == backend.ThreadBudget(2, insists=True)


def test_gpu_settings_are_named_as_without_effect(backend):
    config = parameters(gpu_mem_limit="1000")
    config["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [{"name": "tensorrt"}]}}
    assert backend.parse_settings(config).ignored == ("gpu_mem_limit", "gpu_execution_accelerator")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (parameters(intra_op_threads="2"), "unknown parameter 'intra_op_threads'.*reads .*intra_op_thread_count"),
        (parameters(intra_op_thread_count="two"), "must be a number of threads .* but is 'two'"),
        (parameters(intra_op_thread_count="-1"), "must be a number of threads .* but is '-1'"),
        (parameters(enable_mem_arena="maybe"), "'enable_mem_arena' must be 0 or 1, but is 'maybe'"),
        (parameters(execution_mode="2"), "'execution_mode' must be 0 or 1"),
        ({"optimization": {"graph": {"level": 3}}}, "level must be -1, 0, 1 or 2, but is 3"),
        (
            {"optimization": {"execution_accelerators": {"cpu_execution_accelerator": [{"name": "openvino"}]}}},
            "openvino is not available",
        ),
    ],
)
def test_wrong_settings_are_refused(backend, config, words):
    with pytest.raises(ValueError, match=words):
        backend.parse_settings(config)


@pytest.mark.parametrize("data_type", ["TYPE_STRING", "TYPE_BF16"])
def test_types_that_numpy_or_the_wire_cannot_carry_are_refused(backend, data_type):
    with pytest.raises(ValueError, match=f"has type {data_type}; .* serve BOOL"):
        sys.modules["graph_config"].parse_ports([{"name": "x", "data_type": data_type, "dims": ["1"]}])


def test_the_variables_of_threads_have_one_name(backend):
    names = sys.modules["graph_config"]
    assert (names.BUDGET_VARIABLE, names.THREADS_VARIABLE) == (BUDGET_VARIABLE, THREADS_VARIABLE)


@pytest.fixture
def load(backend, tiny, tmp_path, monkeypatch):
    """Load the tiny model; `change` edits its configuration first."""
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    tiny.write(tmp_path)

    return functools.partial(load_tiny, backend, tmp_path)


def test_requests_of_one_batch_run_once_and_are_split_again(load, tiny):
    model, runs = load(), []
    session, model.session = model.session, SimpleNamespace()
    model.session.run = lambda *args: runs.append(args[0]) or session.run(*args)
    asked = [(rows, tiny.images(rows, seed=rows), np.full((rows, 1), rows, np.int32)) for rows in (1, 3, 2)]
    responses = model.execute([request(images, targets) for _, images, targets in asked])
    assert runs == [["logits", "bias"]]
    for response, (_, images, targets) in zip(responses, asked, strict=True):
        expected = tiny.answers(images, targets)
        for name in ("logits", "bias"):
            np.testing.assert_allclose(response.outputs[name], expected[name], rtol=1e-5, atol=1e-4)


def test_only_wanted_outputs_are_computed_and_given(load, tiny):
    model, runs = load(), []
    session, model.session = model.session, SimpleNamespace()
    model.session.run = lambda *args: runs.append(args[0]) or session.run(*args)
    targets = np.zeros((1, 1), np.int32)
    first, second = model.execute([request(tiny.images(1), targets, ("bias",)), request(tiny.images(1), targets, ())])
    assert runs == [["bias"]]
    assert list(first.outputs) == ["bias"]
    assert second.outputs == {}


def test_bad_requests_get_errors_of_their_own(load, tiny):
    model = load()
    good, target = tiny.images(1), np.zeros((1, 1), np.int32)
    responses = model.execute([
        request(good, target),
        request(good.astype(np.float32), target),
        request(good[:, :5], target),
        request(good[0], target),
        request(None, target),
        request(tiny.images(2), target),
        request(good[:0], target[:0]),
        request(good, target + 99),
        request(good, target),
    ])  # fmt: skip
    errors = [response.error for response in responses]
    assert errors[0] is None
    assert errors[-1] is None
    assert "input 'image' must be uint8 ['batch', 6, 4, 3], but is float32 [1, 6, 4, 3]" in errors[1]
    assert "but is uint8 [1, 5, 4, 3]" in errors[2]
    assert "but is uint8 [6, 4, 3]" in errors[3]
    assert "input 'image' is missing" in errors[4]
    assert "one batch size, but have image 2, target 1" in errors[5]
    assert "but is uint8 [0, 6, 4, 3]" in errors[6]
    assert "Gather" in errors[7]
    assert all(error.startswith("tiny version 1: ") for error in errors[1:8])
    assert responses[0].outputs["bias"].tolist() == responses[-1].outputs["bias"].tolist() == [[0.0]]


@pytest.fixture
def computed(backend, monkeypatch):
    """The batch sizes that were run, as they happen."""
    sizes, compute = [], backend.TritonPythonModel.compute

    def record(model, names, feed):
        sizes.append(len(feed["image"]))
        return compute(model, names, feed)

    monkeypatch.setattr(backend.TritonPythonModel, "compute", record)
    return sizes


def test_each_instance_has_run_one_row_and_a_whole_batch_before_it_counts_as_loaded(load, computed):
    load()
    assert computed == [1, 8]
    load(lambda config: config.update(max_batch_size=1))
    assert computed == [1, 8, 1]


def test_a_model_with_open_sizes_is_loaded_without_a_run(load, computed):
    load(rename("input", 0, dims=["6", "-1", "3"]))
    assert not computed


def test_a_model_that_zeros_do_not_suit_is_served_and_told(load, backend, monkeypatch):
    def refuse(*_):
        raise ValueError("zeros are\nno picture")

    monkeypatch.setattr(backend.TritonPythonModel, "compute", refuse)
    load()
    assert backend.warnings == ["tiny version 1 was not warmed up: zeros are no picture"]


def rename(section, index, **values):
    return lambda config: config[section][index].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename("input", 0, name="picture"), "input 'picture' of config.pbtxt is not in the graph, which has image"),
        (rename("output", 0, name="scores"), "output 'scores' of config.pbtxt is not in the graph"),
        (rename("input", 1, data_type="TYPE_INT64"), r"input 'target' is tensor\(int64\) .* but tensor\(int32\)"),
        (rename("input", 0, dims=["4", "6", "3"]), r"input 'image' is \[4, 6, 3\] in config.pbtxt but \[6, 4, 3\]"),
        (rename("output", 1, dims=["1", "1"]), r"output 'bias' is \[1, 1\] in config.pbtxt but \[1\]"),
        (lambda config: config["input"].pop(), "input 'target' of the graph is missing in config.pbtxt"),
        (lambda config: config.update(default_model_filename="other.onnx"), r"other\.onnx does not exist"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(load, change, words):
    with pytest.raises(TritonModelException, match=f"tiny version 1: .*{words}"):
        load(change)


def test_numpy_2_is_refused(load, backend, monkeypatch):
    monkeypatch.setattr(backend.np, "__version__", "2.0.0")
    with pytest.raises(TritonModelException, match="numpy must be < 2"):
        load()
