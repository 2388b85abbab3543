"""KServe v2 messages by hand equal those that protobuf makes, and responses are read right, parsed or not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from salf_client import ContractMismatchError
from salf_client.messages import InferReader, infer_request, read_response

KINDS = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8, "INT64": np.int64, "BOOL": np.bool_}
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)


@st.composite
def tensors(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    found = {}
    for name in names:
        kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
        shape = (1, *draw(st.lists(st.integers(0, 9), max_size=3)))
        values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, shape)
        found[name] = values.astype(kind)
    return found


def response(arrays, model="m"):
    kinds = {np.dtype(kind): name for name, kind in KINDS.items()}
    message = service_pb2.ModelInferResponse(model_name=model, model_version="1")
    for name, array in arrays.items():
        message.outputs.add(name=name, datatype=kinds[array.dtype], shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    return message


@given(inputs=tensors(), outputs=st.lists(NAMES, max_size=4), data=st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_requests_are_what_protobuf_reads(inputs, outputs, data):
    encoded = np.empty((1, 1), dtype=object)
    encoded[0, 0] = data
    request = service_pb2.ModelInferRequest.FromString(infer_request("boats", {**inputs, "bytes": encoded}, outputs))
    assert request.model_name == "boats"
    assert [output.name for output in request.outputs] == outputs
    assert [tensor.name for tensor in request.inputs] == [*inputs, "bytes"]
    for tensor, raw, array in zip(request.inputs, request.raw_input_contents, inputs.values(), strict=False):
        assert list(tensor.shape) == list(array.shape)
        assert raw == array.tobytes()
    assert request.raw_input_contents[-1] == len(data).to_bytes(4, "little") + data


@given(first=tensors(), others=st.lists(tensors(), max_size=3), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_response_is_read_the_same_whether_its_layout_is_known_or_not(first, others, seed):
    reader, wanted = InferReader("here:1"), tuple(first)
    again = {
        name: np.random.default_rng(seed).integers(0, 2, array.shape).astype(array.dtype)
        for name, array in first.items()
    }
    # The same names with other shapes and types, and the same shapes with other values, in any order.
    stream = [first, again, *({**first, **dict(zip(first, other.values(), strict=False))} for other in others), first]
    for arrays in stream:
        message = response(arrays)
        read = reader.read(message.SerializeToString(), wanted, model="m")
        plain = read_response(message, wanted, model="m", address="here:1")
        for name in wanted:
            assert np.array_equal(read[name], arrays[name])
            assert read[name].dtype == arrays[name].dtype == plain[name].dtype
            assert read[name].shape == arrays[name].shape
            assert not read[name].flags.writeable


def test_a_response_in_another_order_of_fields_is_read_all_the_same():
    arrays = {"a": np.arange(3, dtype=np.int32)[None], "b": np.ones((1, 2), np.float32)}
    message = response(arrays)
    raw_first, rest = service_pb2.ModelInferResponse(), service_pb2.ModelInferResponse()
    raw_first.raw_output_contents.extend(message.raw_output_contents)
    rest.CopyFrom(message)
    del rest.raw_output_contents[:]
    odd = raw_first.SerializeToString() + rest.SerializeToString()
    reader = InferReader("here:1")
    for content in (odd, message.SerializeToString(), odd):
        read = reader.read(content, ("a", "b"), model="m")
        assert np.array_equal(read["a"], arrays["a"])
        assert np.array_equal(read["b"], arrays["b"])


def test_what_cannot_be_read_is_a_mismatch():
    reader = InferReader("here:1")
    message = response({"a": np.ones((1, 2), np.float32)})
    with pytest.raises(ContractMismatchError, match="without b"):
        reader.read(message.SerializeToString(), ("a", "b"), model="m")
    message.outputs[0].shape[1] = 3
    with pytest.raises(ContractMismatchError, match="in 8 bytes"):
        reader.read(message.SerializeToString(), ("a",), model="m")
    for content in (b"\xff\xff\xff", b"no protobuf at all"):
        with pytest.raises(ContractMismatchError, match="cannot be read"):
            reader.read(content, ("a",), model="m")
