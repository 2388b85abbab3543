"""Tests of the model repository alone: they load neither torch nor a model that was trained."""

import sys
from pathlib import Path

# Test files are imported one by one (importlib mode); what they share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))
