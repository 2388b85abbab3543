"""config.pbtxt read and changed as text; protobuf's own reader says whether that is right."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from salf_contract import (
    ConfigError,
    parameters_in,
    parse_config,
    quoted,
    seal_is_intact,
    sealed,
    served_versions,
    with_field,
    with_parameter,
    with_served_version,
)

COMMITTED = (Path(__file__).parents[2] / "model_repository/scenes/config.pbtxt").read_text()
BY_HAND = """\
# a comment with " and {
name: "by" 'hand'  # two strings are one
max_batch_size: 8,
input [
  { name: "x" data_type: TYPE_UINT8 dims: [ 6, -1 ] },
  < name: "y" dims: 1 dims: 2 >
]
version_policy: { specific: { versions: [ 3, 1 ] } };
parameters: { key: "a#b" value: { string_value: "}\\"\\303\\251\\x41\\n" } }
parameters [ { key: "p" value { string_value: "1" } }, { key: "q" value { string_value: "2" } } ]
dynamic_batching { }
"""


def protobuf(text):
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("text", [COMMITTED, BY_HAND], ids=["committed", "by hand"])
def test_parameters_are_what_protobuf_reads(text):
    assert parameters_in(text) == {key: value.string_value for key, value in protobuf(text).parameters.items()}


@settings(deadline=None)
@given(st.text(), st.text(min_size=1))
def test_any_parameter_is_written_and_read_back(value, key):
    text = with_parameter(COMMITTED, key, value)
    assert parameters_in(text)[key] == value
    assert protobuf(text).parameters[key].string_value == value
    assert parameters_in(with_parameter(text, key, None)) == parameters_in(with_parameter(COMMITTED, key, None))


@pytest.mark.parametrize("text", [COMMITTED, BY_HAND, "name: 'x'", ""], ids=["committed", "by hand", "short", "empty"])
def test_the_served_version_is_changed_and_nothing_else(text):
    changed = with_served_version(text, 7)
    assert served_versions(changed) == (7,)
    wanted, got = protobuf(text), protobuf(changed)
    assert list(got.version_policy.specific.versions) == [7]
    wanted.ClearField("version_policy")
    got.ClearField("version_policy")
    assert wanted == got
    assert with_served_version(changed, 7) == changed


def test_the_served_versions_are_read():
    assert served_versions(BY_HAND) == (1, 3)
    for text in ("", "version_policy { latest { num_versions: 1 } }", "version_policy { all { } }"):
        assert served_versions(text) is None
    with pytest.raises(ConfigError, match="'x', expected a number"):
        served_versions("version_policy { specific { versions: x } }")


def test_a_field_that_stands_several_times_becomes_one():
    text = "a: 1\nb: 2\na: 3\n"
    assert with_field(text, "a", "a: 9") == "a: 9\nb: 2\n"
    assert with_field(text, "a", None) == "b: 2\n"
    assert with_field("b: 2", "a", "a: 9") == "b: 2\na: 9\n"


def test_a_parameter_in_a_list_with_others_is_not_changed():
    with pytest.raises(ConfigError, match="line of its own"):
        with_parameter(BY_HAND, "p", "3")


@pytest.mark.parametrize("text", ['name: "open', "a {", "a [ 1", "a: }", "}", "a", 'a: "x\ny"', "a: [ {, ]", "[a]: 1"])
def test_what_is_no_text_format_is_an_error(text):
    with pytest.raises(ConfigError):
        parse_config(text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab{}[]<>:,;\"'#\\ \n01"))
def test_any_text_is_read_or_refused(text):
    try:
        fields = parse_config(text)
    except ConfigError:
        return
    assert all(0 <= field.start < field.end <= len(text) for field in fields)


@settings(deadline=None)
@given(st.data())
def test_every_change_of_a_sealed_text_shows(data):
    text = sealed('name: "x"\n# é\n')
    assert seal_is_intact(text) is True
    assert sealed(text) == text
    position = data.draw(st.integers(0, len(text) - 1))
    changed = text[:position] + data.draw(st.characters().filter(lambda c: c != text[position])) + text[position + 1 :]
    assert seal_is_intact(changed) is not True


def test_a_text_without_a_seal_says_so():
    assert seal_is_intact(COMMITTED.removeprefix(COMMITTED.splitlines(keepends=True)[0])) is None
    assert quoted("é") == '"\\303\\251"'
