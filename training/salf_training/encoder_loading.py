"""From settings to encoders: which kind, on which devices."""

import logging

import torch

from salf_training.encoder import Encoder, EncoderSettings, OpenClipEncoder
from salf_training.errors import SettingsError
from salf_training.factory import call_factory, import_factory, is_factory_name, takes

_logger = logging.getLogger(__name__)

_MEMBERS = ("image_size", "fingerprint", "embed_images", "embed_texts")


def load_encoders(settings: EncoderSettings) -> list[Encoder]:
    """One encoder for each device that the settings name, all with the same weights.

    `cached_prompt_embeddings` takes the whole list; for texts, any one will do.

    Raises:
        WeightsError: no such model, or weights that cannot be read.
        SettingsError: no such device, or a factory that cannot be used.
    """
    return [load_encoder(settings, device=device) for device in resolve_devices(settings.devices)]


def load_encoder(settings: EncoderSettings, *, device: str = "cpu") -> Encoder:
    """The encoder on one device ('cpu', 'cuda:0').

    Raises:
        WeightsError: no such model, or weights that cannot be read.
        SettingsError: a factory that cannot be used.
    """
    if not is_factory_name(settings.model):
        return OpenClipEncoder(settings, device=device)
    factory = import_factory(settings.model, returns=Encoder)
    arguments: dict[str, object] = dict(settings.options)
    if takes(factory, "device"):
        arguments["device"] = device
    elif device != "cpu":
        raise SettingsError(
            f"the factory {settings.model!r} has no parameter `device`, so it cannot be asked for {device}; "
            "add one, or set devices to ['cpu']"
        )
    encoder = call_factory(settings.model, factory, arguments)
    if not isinstance(encoder, Encoder):
        missing = [name for name in _MEMBERS if not hasattr(encoder, name)]
        raise SettingsError(
            f"the factory {settings.model!r} returned a {type(encoder).__name__} that is no Encoder: it has no "
            f"{', '.join(missing)}"
        )
    return encoder


def resolve_devices(wanted: tuple[str, ...]) -> list[str]:
    """Devices of this machine, as torch calls them: 'cpu', 'cuda:0', ...

    Args:
        wanted: torch's names; 'cuda' stands for every GPU, 'auto' for every GPU or, if there are none, the CPU.

    Raises:
        SettingsError: no such device here: a GPU that was asked for is never replaced by the CPU.
    """
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    devices: list[str] = []
    for name in wanted:
        if name == "auto":
            found = gpus or ["cpu"]
            _logger.info("the encoder computes on %s", ", ".join(found))
            devices += found
        elif name == "cuda" and gpus:
            devices += gpus
        elif name == "cpu" or name in gpus:
            devices.append(name)
        else:
            raise SettingsError(f"there is no device {name!r} here, only {', '.join(['cpu', *gpus])}; set `devices`")
    return devices
