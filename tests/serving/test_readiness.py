"""Probes: what counts as a right answer, and which files count as probes."""

import re

import numpy as np
import pytest

from salf_serving import ProbeError
from salf_serving.readiness import compare, read_probe


def test_close_floats_and_equal_integers_agree():
    expected = {"logits": np.array([[1.0, 200.0]], np.float32), "top": np.array([[3, -1]], np.int32)}
    answer = {"logits": np.array([[1.0015, 200.1]], np.float32), "top": np.array([[3, -1]], np.int32)}
    assert compare(expected, answer) is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "empty output 'x'"),
        (np.zeros((1, 0), np.float32), "empty output 'x'"),
        (np.zeros((1, 3), np.float32), r"float32 \[1, 3\], but float32 \[1, 2\] was expected"),
        (np.zeros((1, 2), np.float64), r"float64 \[1, 2\], but float32"),
        (np.array([[0, 0.25]], np.float32), "output 'x' differs by up to 0.25"),
        (np.array([[0, np.nan]], np.float32), "output 'x' differs by up to nan"),
    ],
)
def test_wrong_answers_are_described(answer, words):
    message = compare({"x": np.zeros((1, 2), np.float32)}, {"x": answer})
    assert message is not None
    assert re.search(words, message)


def test_integers_must_be_equal():
    assert "differs by up to 1" in (compare({"x": np.array([5])}, {"x": np.array([6])}) or "")


def test_no_file_is_no_probe(tmp_path):
    assert read_probe(tmp_path / "probe.npz") is None


def test_broken_files_are_errors(tmp_path):
    path = tmp_path / "probe.npz"
    path.write_bytes(b"PK no archive")
    with pytest.raises(ProbeError, match=r"probe\.npz cannot be read: .*; export the model again"):
        read_probe(path)
    for arrays in ({"input:image": np.zeros(1)}, {"output:x": np.zeros(1)}, {}):
        np.savez(path, **arrays)
        with pytest.raises(ProbeError, match="must hold arrays named input:NAME and output:NAME"):
            read_probe(path)
    np.savez(path, **{"input:a": np.zeros(1), "output:b": np.zeros(1), "other": np.zeros(1)})
    with pytest.raises(ProbeError, match="holds input:a, output:b, other"):
        read_probe(path)


def test_bytes_come_back_as_the_client_sends_them(tmp_path):
    data = b"\x00any\xff\x00"
    arrays = {"input_bytes:encoded": np.frombuffer(data, np.uint8), "input:target": np.zeros((1, 1), np.int32)}
    np.savez(tmp_path / "probe.npz", **arrays, **{"output:x": np.zeros(1)})
    probe = read_probe(tmp_path / "probe.npz")
    assert probe is not None
    assert probe.inputs["encoded"].tolist() == [[data]]
    assert list(probe.inputs) == ["encoded", "target"]
