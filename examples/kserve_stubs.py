"""Ask a salf server without salf: the KServe v2 stubs that protoc generates, numpy and Pillow.

Any language with gRPC can do the same from the protocol's public description; tritonclient ships the generated Python.
Run: python examples/kserve_stubs.py localhost:8001 demonstration/pictures/harbour.jpg
"""

import json
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

_TYPES = {"FP32": "<f4", "INT32": "<i4"}


def served_document(stub: service_pb2_grpc.GRPCInferenceServiceStub, model: str) -> dict[str, Any]:
    """The metadata document of the version that answers: names of classes and concepts, input size.

    The configuration holds a document for every version in the repository; after a roll-back the newest is not served.
    """
    versions = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=model), timeout=10).versions
    config = stub.ModelConfig(service_pb2.ModelConfigRequest(name=model), timeout=10).config
    return dict(json.loads(config.parameters[f"salf_metadata_v{max(map(int, versions))}"].string_value))


def prepared(path: Path, size: dict[str, Any]) -> NDArray[np.uint8]:
    """UINT8 [1,H,W,3]: the largest centred part of the model's aspect ratio, resized. EXIF orientation is left out."""
    image = Image.open(path).convert("RGB")
    scale = min(image.width / size["width"], image.height / size["height"]) * size["crop_fraction"]
    width, height = size["width"] * scale, size["height"] * scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    resampling = Image.Resampling[size["interpolation"].upper()]
    small = image.resize((size["width"], size["height"]), resampling, box=(left, top, left + width, top + height))
    return np.asarray(small)[np.newaxis]


def explain(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, model: str, pixels: NDArray[np.uint8]
) -> dict[str, NDArray[Any]]:
    """One ModelInfer call; output name -> array with a batch axis of 1."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="image", datatype="UINT8", shape=pixels.shape)
    request.raw_input_contents.append(pixels.tobytes())
    request.inputs.add(name="target", datatype="INT32", shape=[1, 1])
    request.raw_input_contents.append(np.array([[-1]], "<i4").tobytes())  # -1: the predicted class
    response = stub.ModelInfer(request, timeout=10)
    return {
        tensor.name: np.frombuffer(raw, _TYPES[tensor.datatype]).reshape(tensor.shape)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def main(address: str, picture: Path, model: str = "scenes") -> str:
    """Explain one picture, in words."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        document = served_document(stub, model)
        answer = explain(stub, model, prepared(picture, document["preparation"]))
    words = b"".join(int(word).to_bytes(4, "big", signed=True) for word in answer["contract_id"][0])
    lines = [f"{document['classes'][int(answer['logits'][0].argmax())]}  (contract {words.hex()})"]
    slots = zip(answer["top_concepts"][0], answer["top_contributions"][0], answer["top_scores"][0], strict=True)
    for concept, contribution, score in slots:
        if concept >= 0:
            lines.append(f"  {contribution:+8.3f}  {'' if score > 0 else 'no '}{document['concepts'][concept]}")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/kserve_stubs.py HOST:PORT PICTURE")
    print(main(sys.argv[1], Path(sys.argv[2])))  # noqa: T201 - it is a program
