"""What the first pictures of a process would wait for: Pillow loads its plugins and libraries when they are needed."""

import io

from PIL import Image

from salf_contract import ACCEPTED_FORMATS, PictureLimits, Preparation, open_within, prepare

#: Small enough to cost milliseconds, and seldom a model's own size: it is resized.
_SIZE = (320, 240)


def warm_up(preparation: Preparation) -> None:
    """Decode and prepare one picture of each kind."""
    picture = Image.new("RGB", _SIZE)
    for kind in ACCEPTED_FORMATS:
        file = io.BytesIO()
        picture.save(file, kind)
        prepare(open_within(file.getvalue(), PictureLimits()), preparation)
