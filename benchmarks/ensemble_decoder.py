"""The decoding step of an ensemble: JPEG bytes in, pixels out. ensemble.py puts it before the explain model.

It does the least that such a step can do, without limits, codes for errors or metrics: the most that an ensemble gains.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Triton's stub puts this folder into no path; a copy of salf_contract lies in it.
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import triton_python_backend_utils as pb_utils

from salf_contract import Preparation, decode_picture, prepare


class TritonPythonModel:
    """What Triton's Python stub calls."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the size from the declared output `image` [H,W,3]."""
        outputs = json.loads(args["model_config"])["output"]
        height, width, _ = next(output["dims"] for output in outputs if output["name"] == "image")
        self.preparation = Preparation(height=int(height), width=int(width))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Decode the pictures of all requests."""
        return [self._decode(request) for request in requests]

    def _decode(self, request: Any) -> Any:
        files = pb_utils.get_input_tensor_by_name(request, "encoded").as_numpy()[:, 0]
        prepared = [prepare(decode_picture(bytes(file)), self.preparation) for file in files]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("image", np.stack([one.pixels for one in prepared])),
                pb_utils.Tensor("source_size", np.array([one.source_size for one in prepared], np.int32)),
                pb_utils.Tensor("crop_box", np.array([one.crop_box for one in prepared], np.float32)),
            ]
        )
