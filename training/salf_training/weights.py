"""Reading weight files without running what is in them."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from salf_training.errors import WeightsError


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors or torch file; torch files are read with `weights_only`.

    Raises:
        WeightsError: the file is missing, broken, or holds anything but tensors by name.
    """
    state = _read(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise WeightsError(f"the weight file {path} holds no state dict (tensors by name)")
    return state


def read_tensor(path: Path) -> Tensor:
    """Read a torch file that holds one tensor and nothing else, with `weights_only`; on the CPU, without gradients.

    Raises:
        WeightsError: the file is missing, broken, or holds anything but a tensor.
    """
    value = _read(path)
    if not isinstance(value, Tensor):
        raise WeightsError(f"the weight file {path} holds a {type(value).__name__}, expected one tensor")
    return value.detach()


def _read(path: Path) -> object:
    if not path.is_file():
        raise WeightsError(f"the weight file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # A broken torch file fails in any way: struct.error, IndexError, AssertionError, UnpicklingError ...
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"the weight file {path} cannot be read: {reason}") from error
