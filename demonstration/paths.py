"""Where the demonstration's parts lie in a clone."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "model_repository"
CHECKPOINT = ROOT / "demonstration" / "checkpoint"
PICTURES = ROOT / "demonstration" / "pictures"
OUTPUT = ROOT / "demo_output"
MODEL_NAME = "scenes"
