"""Fixtures of the training room's tests."""

import sys
from pathlib import Path

# Test files are imported one by one (importlib mode); what they share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))
