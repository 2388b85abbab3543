"""What a published repository holds and serves, as Triton's own protobuf reads it."""

from pathlib import Path

from google.protobuf import text_format
from model_family import NAMES
from tritonclient.grpc import model_config_pb2

from salf_contract import Tuning, TuningRecord, metadata_in_parameters, tuning_file
from salf_contract.tuning import Trial

BEST = Tuning(max_batch_size=4, instances=2, threads=3, max_queue_delay_microseconds=700)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def parsed_config(model: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def served(repository: Path) -> dict[str, list[int]]:
    return {name: list(parsed_config(repository / name).version_policy.specific.versions) for name in NAMES}


def described(repository: Path, name: str) -> set[int]:
    parameters = {key: value.string_value for key, value in parsed_config(repository / name).parameters.items()}
    return set(metadata_in_parameters(parameters))


def tune_version(repository: Path, version: int, *, best: Tuning = BEST) -> None:
    """Put the record of a tuning beside boats' config.pbtxt."""
    trial = Trial(settings=best, pictures_per_s=1, p50_ms=1, p95_ms=1, requests=1, fits=True)
    record = TuningRecord(model="boats", version=version, p95_bound_ms=5, concurrency=1, best=best, trials=(trial,))
    (repository / "boats" / tuning_file(version)).write_text(record.to_json())
