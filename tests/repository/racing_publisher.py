"""One of several processes that publish into one repository: racing_publisher.py REPOSITORY ROUNDS."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from model_family import NAMES, models

from salf_export.errors import RepositoryError
from salf_export.publishing import publish
from salf_export.repository import choose_version

os.fsync = lambda _descriptor: None  # nobody cuts the power, and waiting for the disk takes most of the time
repository, rounds = Path(sys.argv[1]), int(sys.argv[2])
published = 0
while published < rounds:
    version = choose_version(repository, NAMES, None)
    try:
        publish(repository, version, models(version))
    except RepositoryError as error:
        if "never overwritten" not in str(error):
            raise
        continue
    published += 1
