import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salf_contract import FileStamp, Manifest, ManifestError, manifest_problems, parse_manifest

FILES = {"model.onnx": b"graph", "metadata.json": b"{}", "deep/weights.bin": b""}


def manifest(**changed):
    stamps = {name: FileStamp.of(content) for name, content in FILES.items()}
    values = {
        "model": "scenes_all_maps",
        "version": 3,
        "family": ("scenes_all_maps", "scenes"),
        "published_at": "2026-01-02T03:04:05Z",
        "files": stamps,
        "provenance": {"torch": "2"},
    }
    return Manifest(**values | changed)


def test_a_manifest_is_read_back():
    assert parse_manifest(manifest().to_json().encode()) == manifest()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_flipped_bit_of_a_manifest_is_found(data):
    content = bytearray(manifest().to_json().encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ManifestError, match="publish the version again"):
        parse_manifest(bytes(content))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"format_version": 2}'])
def test_what_is_no_manifest_is_one_error(content):
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        parse_manifest(content)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", ".", "manifest.json", "a/../b", ""])
def test_a_file_outside_the_version_is_refused(name):
    with pytest.raises(ValueError, match="no path of a file"):
        manifest(files={name: FileStamp.of(b"")})


def test_files_as_published_have_no_problem():
    found = {name: FileStamp.of(content) for name, content in FILES.items()}
    assert manifest_problems(manifest(), found) == ()
    assert manifest_problems(manifest(), found | {"manifest.json": FileStamp.of(b"itself")}) == ()


def test_changed_missing_and_added_files_are_named():
    found = {
        "model.onnx": FileStamp.of(b"grapH"),
        "metadata.json": FileStamp.of(b"{ }"),
        "extra.txt": FileStamp.of(b""),
    }
    problems = manifest_problems(manifest(), found)
    assert len(problems) == 4
    for problem, start in zip(
        problems,
        ("deep/weights.bin is missing", "extra.txt was not", "metadata.json has 3 bytes", "model.onnx has SHA-256"),
        strict=True,
    ):
        assert problem.startswith(start)


def test_the_digest_is_not_a_field_of_the_document():
    assert json.loads(manifest().to_json())["digest"] == manifest().digest
