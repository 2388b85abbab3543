"""The settings in docs/backbones-and-encoders.md are settings that salf takes."""

import re

import pytest
import yaml
from pydantic import TypeAdapter

from salf_training.backbone import BackboneSettings
from salf_training.encoder import EncoderSettings
from salf_training.prompts import PromptSettings
from salf_training.settings import TrainSettings

TAKERS = {"backbone": BackboneSettings, "encoder": EncoderSettings, "circles": PromptSettings, "pretrained": bool}


@pytest.fixture
def page(request) -> str:
    return (request.config.rootpath / "docs" / "backbones-and-encoders.md").read_text(encoding="utf-8")


def test_every_settings_block_is_valid(page):
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)]
    assert len(blocks) == 7
    for block in blocks:
        for name, value in block.items():
            assert name in TrainSettings.model_fields
            TypeAdapter(TAKERS[name]).validate_python(value)


def test_every_encoder_setting_is_explained(page):
    for name in EncoderSettings.model_fields:
        assert f"`{name}`" in page or name == "merges", name
