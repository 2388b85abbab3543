import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salf_contract import (
    Fidelity,
    Metadata,
    MetadataError,
    Preparation,
    contract_id_from_words,
    metadata_in_parameters,
    metadata_parameter,
    parse_metadata,
    sum_tolerance,
)

FIELDS = {
    "name": "scenes",
    "version": 3,
    "classes": ("harbour", "farm"),
    "concepts": ("sail", "tractor", "gr\u00fcne T\u00fcr"),
    "preparation": Preparation(height=112, width=96),
    "pooling": "average",
    "map_size": (7, 6),
    "top": 2,
    "provenance": {"checkpoint": "abc"},
    "accuracy": {"salf": 0.93},
}
CHANGES = {
    "name": "other",
    "version": 4,
    "classes": ("farm", "harbour"),
    "concepts": ("tractor", "sail"),
    "preparation": Preparation(height=112, width=96, interpolation="bicubic"),
    "pooling": "softmax",
    "map_size": (6, 7),
    "top": 1,
    "provenance": {"checkpoint": "abd"},
    "accuracy": {"salf": 0.94},
}
FIDELITY = Fidelity(runtime="onnxruntime", precision="fp32", max_abs_error={"logits": 1e-5}, pictures=8)


def test_a_document_survives_the_round_trip():
    document = Metadata(**FIELDS, fidelity=FIDELITY)
    again = parse_metadata(document.to_json())
    assert again == document
    assert again.contract_id == document.contract_id
    assert "gr\u00fcne" in document.to_json()


def test_the_contract_id_changes_with_every_field_but_fidelity():
    document = Metadata(**FIELDS)
    assert set(CHANGES) == set(Metadata.model_fields) - {"format_version", "fidelity"}
    ids = {Metadata(**{**FIELDS, name: value}).contract_id for name, value in CHANGES.items()}
    assert len(ids | {document.contract_id}) == len(CHANGES) + 1
    assert Metadata(**FIELDS, fidelity=FIDELITY).contract_id == document.contract_id


def test_the_contract_id_is_the_same_everywhere():
    # Pinned: clients of another version or language must compute the same.
    assert Metadata(**FIELDS).contract_id == "d9f982c05afa8ff6607b0bed3ee1aaa7"


@given(st.text("0123456789abcdef", min_size=32, max_size=32))
def test_words_carry_any_id(identity):
    words = np.frombuffer(bytes.fromhex(identity), dtype=">i4").astype(np.int32)
    assert contract_id_from_words(words) == identity


def test_a_documents_own_words_give_its_id():
    document = Metadata(**FIELDS)
    words = document.contract_id_words()
    assert words.dtype == np.int32
    assert words.shape == (4,)
    assert contract_id_from_words(words) == document.contract_id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"format_version": 2}, "format_version"),
        ({"top": 0}, "top"),
        ({"classes": []}, "classes"),
        ({"classes": ["a", "a"]}, "twice: a"),
        ({"pooling": "max"}, "pooling"),
        ({"preparation": {"height": 3}}, "preparation.width"),
    ],
)
def test_documents_that_do_not_fit_are_refused_with_the_field(change, words):
    document = {**json.loads(Metadata(**FIELDS).to_json()), **change}
    with pytest.raises(MetadataError, match=words):
        parse_metadata(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff\xfe"])
def test_what_is_no_document_is_refused(text):
    with pytest.raises(MetadataError, match="export the model again"):
        parse_metadata(text)


def test_all_versions_are_found_among_other_parameters():
    documents = {version: Metadata(**{**FIELDS, "version": version}) for version in (1, 12)}
    parameters = {metadata_parameter(version): document.to_json() for version, document in documents.items()}
    found = metadata_in_parameters({**parameters, "intra_op_thread_count": "2", "salf_metadata_vx": "no"})
    assert found == documents
    assert metadata_in_parameters({}) == {}


def test_the_tolerance_grows_with_the_evidence():
    assert sum_tolerance(np.array([])) == pytest.approx(1e-4)
    assert sum_tolerance(np.array([-3.0, 2.0], dtype=np.float32)) == pytest.approx(1e-4 + 5e-5)
