"""Published concept-bottleneck checkpoints -> ours: the layouts (`layouts`), and the import itself (`importing`)."""

from salf_training.importers.importing import import_checkpoint
from salf_training.importers.layouts import LAYOUTS, Layout

__all__ = ["LAYOUTS", "Layout", "import_checkpoint"]
