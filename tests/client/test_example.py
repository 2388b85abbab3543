"""The example that asks without our client gets what our client gets."""

import subprocess
import sys
from pathlib import Path

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
