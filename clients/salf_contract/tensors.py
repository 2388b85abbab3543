"""Names, types and shapes of the tensors on the wire.

Axis letters: B batch, H W picture, h w concept map, K classes, M concepts, n top slots.
Dimensions that may change with a model's version (K, M, n) are -1; config.pbtxt says those of the served version. B is
never listed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: `target` value that asks for the predicted class.
PREDICTED_CLASS = -1
#: `top_concepts` value of a slot that holds no concept (its weight is zero).
NO_CONCEPT = -1
#: A contract id on the wire: 128 bits as four INT32 words.
CONTRACT_ID_WORDS = 4

#: Models that stand beside the explain model NAME, so that nobody pays for all maps without asking for them.
ALL_MAPS_MODEL = "{name}_all_maps"
ALL_SCORES_MODEL = "{name}_all_scores"
#: For published cases and tests: starts from the backbone's features, and answers with everything.
FROM_FEATURES_MODEL = "{name}_from_features"
#: What is in this region, and what if a concept were weaker or stronger somewhere.
WHAT_IF_MODEL = "{name}_what_if"
#: Takes JPEG, PNG or WebP bytes instead of pixels, and answers like NAME.
ENCODED_MODEL = "{name}_encoded"
#: Request parameter (a whole number) by which the encoded model is told which version of NAME to ask: it has a version
#: of its own, so KServe's `model_version` would say something else.
EXPLAIN_VERSION_PARAMETER = "salf_explain_version"
#: Request id of a server's own probes, which are no traffic: what models say to them is not counted.
PROBE_REQUEST_ID = "salf-probe"
#: How many edits one what-if question takes.
EDIT_SLOTS = 8


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a served model: name, KServe v2 datatype and dims without the batch axis.

    `dims` entries are ints (-1: changes with the version) or "H", "W", "h", "w", filled in at export.
    """

    name: str
    datatype: str
    dims: tuple[int | str, ...]


#: RGB, 0..255, already at the model's size; normalisation happens inside the graph.
IMAGE_INPUT = TensorSpec("image", "UINT8", ("H", "W", 3))
_TARGET_INPUT = TensorSpec("target", "INT32", (1,))
_CONTRACT_ID = TensorSpec("contract_id", "INT32", (CONTRACT_ID_WORDS,))

EXPLAIN_INPUTS = (IMAGE_INPUT, _TARGET_INPUT)
EXPLAIN_OUTPUTS = (
    TensorSpec("logits", "FP32", (-1,)),  # [K]
    # The class that is explained. (The input is called `target`; an ONNX graph cannot use one name twice.)
    TensorSpec("target_class", "INT32", (1,)),
    TensorSpec("bias", "FP32", (1,)),  # of the target class
    TensorSpec("top_concepts", "INT32", (-1,)),  # [n], by falling |contribution|; NO_CONCEPT in unused slots
    TensorSpec("top_contributions", "FP32", (-1,)),  # [n]
    TensorSpec("top_scores", "FP32", (-1,)),  # [n] z: present where > 0
    TensorSpec("rest_contribution", "FP32", (1,)),  # summed over every concept not shown
    TensorSpec("coverage", "FP32", (1,)),  # sum |shown| / sum |all|, 0..1
    TensorSpec("top_maps", "FP32", (-1, "h", "w")),  # [n,h,w] (c - mean) / std
    _CONTRACT_ID,
)
ALL_MAPS_OUTPUTS = (TensorSpec("all_maps", "FP32", (-1, "h", "w")), _CONTRACT_ID)  # [M,h,w] raw c(x)
ALL_SCORES_OUTPUTS = (TensorSpec("all_scores", "FP32", (-1,)), _CONTRACT_ID)  # [M] z

#: [C,h',w'] as the backbone gives them; a model may resize them to (h, w) itself.
FEATURES_INPUT = TensorSpec("features", "FP32", (-1, -1, -1))
FROM_FEATURES_INPUTS = (FEATURES_INPUT, _TARGET_INPUT)
FROM_FEATURES_OUTPUTS = (*EXPLAIN_OUTPUTS, ALL_MAPS_OUTPUTS[0], ALL_SCORES_OUTPUTS[0])

WHAT_IF_INPUTS = (
    IMAGE_INPUT,
    _TARGET_INPUT,
    TensorSpec("region", "FP32", ("h", "w")),  # weight of each cell, >= 0; all zero: no region is asked about
    TensorSpec("edit_concepts", "INT32", (EDIT_SLOTS,)),  # concept index; NO_CONCEPT in unused slots
    # In training standard deviations: (c - mean) / std of the concept becomes that plus strength * mask.
    TensorSpec("edit_strengths", "FP32", (EDIT_SLOTS,)),
    TensorSpec("edit_masks", "FP32", (EDIT_SLOTS, "h", "w")),  # 0..1
)
WHAT_IF_OUTPUTS = (
    TensorSpec("region_scores", "FP32", (-1,)),  # [M] average pooling: z of the region; softmax: mean of raw maps
    TensorSpec("logits", "FP32", (-1,)),  # [K] before any edit
    TensorSpec("target_class", "INT32", (1,)),  # the class asked for, or the one predicted before any edit
    TensorSpec("bias", "FP32", (1,)),  # of the target class
    TensorSpec("contributions", "FP32", (-1,)),  # [M] to the target class, before any edit
    TensorSpec("edited_logits", "FP32", (-1,)),  # [K]
    TensorSpec("edited_contributions", "FP32", (-1,)),  # [M] to the target class
    _CONTRACT_ID,
)

#: One encoded picture, as KServe v2 BYTES.
ENCODED_INPUT = TensorSpec("encoded", "BYTES", (1,))
ENCODED_INPUTS = (ENCODED_INPUT, _TARGET_INPUT)
ENCODED_OUTPUTS = (
    *EXPLAIN_OUTPUTS,
    TensorSpec("source_size", "INT32", (2,)),  # (width, height) in pixels, after EXIF orientation
    TensorSpec("crop_box", "FP32", (4,)),  # (left, top, right, bottom) in source pixels: what the model saw
)


def sum_tolerance(contributions: NDArray[np.floating]) -> float:
    """How far contributions + rest + bias may lie from the logit in float32.

    Args:
        contributions: all known contributions to the class, any shape.

    Returns:
        1e-5 * sum |contributions| + 1e-4, in logit units.
    """
    return 1e-5 * float(np.abs(contributions).sum()) + 1e-4
