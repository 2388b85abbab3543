"""The example that asks without our client gets what our client gets."""

import json
import subprocess
import sys
from pathlib import Path

from tritonclient.grpc import service_pb2

from examples.kserve_stubs import served_document
from salf_client import Client
from salf_serving import RunningServer

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "demonstration" / "pictures" / "harbour.jpg"


def test_generated_stubs_give_the_clients_answer(triton_server: RunningServer) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "kserve_stubs.py", triton_server.grpc_address, PICTURE],
        capture_output=True,
        text=True,
        check=True,
    )
    with Client(triton_server.grpc_address, model="scenes", sends_encoded=False) as client:
        explanation = client.explain(PICTURE)
    assert done.stdout.startswith(f"{explanation.label}  (contract {explanation.contract_id})")
    for concept in explanation.concepts:
        assert f"{concept.contribution:+8.3f}  {'' if concept.present else 'no '}{concept.name}" in done.stdout


def test_after_a_roll_back_the_stubs_read_the_document_of_what_is_served() -> None:
    """The configuration goes on to hold the document of the version that was left."""
    config = service_pb2.ModelConfigResponse()
    for version in (1, 2, 3):
        config.config.parameters[f"salf_metadata_v{version}"].string_value = json.dumps({"version": version})

    class Stub:
        def ModelConfig(self, request: object, timeout: float) -> object:  # noqa: N802 - gRPC's names
            return config

        def ModelMetadata(self, request: object, timeout: float) -> object:  # noqa: N802
            return service_pb2.ModelMetadataResponse(name="scenes", versions=["2"])

    assert served_document(Stub(), "scenes") == {"version": 2}
