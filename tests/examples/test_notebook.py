"""The notebook runs from top to bottom against the real server, and is committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from salf_client import Client
from salf_serving import RunningServer

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "explain.ipynb"


def test_the_committed_notebook_holds_no_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert NOTEBOOK.stat().st_size < 20_000


@pytest.mark.slow
def test_the_notebook_explains_finds_and_edits(triton_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALF_URL", triton_server.grpc_address)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    shown = [kind for output in outputs if output.output_type != "stream" for kind in output.data]
    assert "text/html" in shown, "the explanation does not show itself"
    assert "image/png" in shown
    with Client(triton_server.grpc_address) as client:
        explanation = client.explain(NOTEBOOK.parents[1] / "demonstration" / "pictures" / "harbour.jpg")
    strongest = next(concept for concept in explanation.concepts if concept.present)
    for said in (f"{explanation.logit:.3f} = ", f"{strongest.name} is strongest at", f"logit of {explanation.label}"):
        assert said in printed
    assert f"{explanation.label} becomes" in printed or f"{explanation.label} stays" in printed
