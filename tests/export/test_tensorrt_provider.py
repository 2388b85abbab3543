"""ONNX Runtime's TensorRT provider: its section of config.pbtxt against golden files and Triton's protobuf."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from salf_contract import EXPLAIN_INPUTS, FROM_FEATURES_INPUTS, IMAGE_INPUT, WHAT_IF_INPUTS
from salf_export import OptionError
from salf_export.tensorrt_provider import TensorRtProvider, provider_lines

GOLDEN = Path(__file__).parent / "golden"
SIZES = {"H": 224, "W": 320, "h": 7, "w": 10}


@pytest.mark.parametrize(
    ("golden", "provider", "inputs"),
    [
        ("tensorrt_fp16_cached", TensorRtProvider(cache_directory="/var/cache/salf/tensorrt"), EXPLAIN_INPUTS),
        ("tensorrt_int8", TensorRtProvider(precision="int8", optimal_batch=4, max_workspace_bytes=1), WHAT_IF_INPUTS),
        ("tensorrt_fp32", TensorRtProvider(precision="fp32", optimal_batch=99), (IMAGE_INPUT,)),
    ],
)
def test_the_providers_section_is_the_golden_one_and_tritons_protobuf_reads_it(golden, provider, inputs):
    text = "\n".join(provider_lines(provider, inputs, sizes=SIZES, max_batch_size=16)) + "\n"
    assert text == (GOLDEN / f"{golden}.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert not config.optimization.execution_accelerators.cpu_execution_accelerator
    for size, batch in (("min", 1), ("max", 16)):
        shapes = dict(entry.split(":") for entry in accelerator.parameters[f"trt_profile_{size}_shapes"].split(","))
        assert shapes["image"] == f"{batch}x224x320x3"
        assert set(shapes) == {spec.name for spec in inputs}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "bf16"}, "fp32, fp16, int8"),
        ({"max_workspace_bytes": 0}, "max_workspace_bytes is 0"),
        ({"cache_directory": "cache"}, "absolute path"),
        ({"optimal_batch": 0}, "optimal_batch is 0"),
    ],
)
def test_provider_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(OptionError, match=message):
        TensorRtProvider(**wrong)


def test_a_model_without_fixed_sizes_has_no_profile():
    with pytest.raises(OptionError, match="'features' has no fixed size"):
        provider_lines(TensorRtProvider(), FROM_FEATURES_INPUTS, sizes=SIZES, max_batch_size=4)
