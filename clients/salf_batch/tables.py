"""Pictures in a column of Parquet files."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from salf_batch.errors import InvalidSourceError, MissingExtraError, UnreadableInputError
from salf_batch.stores import Place

#: Of the pictures, unless another is named.
DEFAULT_COLUMN = "image"
_KEPT_GROUPS = 2


def parquet_inputs(table: Place, *, column: str | None) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Rows of a Parquet file, as `FILE#ROW`.

    Args:
        table: a .parquet file.
        column: encoded pictures: binary, or a struct with a field `bytes` as Hugging Face's datasets write it; None
            takes "image".

    Raises:
        InvalidSourceError: no Parquet, or no such column.
        MissingExtraError: pyarrow is not installed.
        UnreadableInputError: there is no such file.
    """
    groups = _Groups(table, column or DEFAULT_COLUMN)
    row = 0
    for group, rows in enumerate(groups.sizes()):
        for offset in range(rows):
            yield f"{table.uri}#{row}", partial(groups.read, group, offset)
            row += 1


class _Groups:
    """A file's row groups, of which the last few that were read are kept: inputs are read almost in order."""

    def __init__(self, table: Place, column: str) -> None:
        self._table, self._column = table, column
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __reduce__(self) -> "tuple[type[_Groups], tuple[Place, str]]":
        """Another process reads the groups that it needs itself."""
        return _Groups, (self._table, self._column)

    def sizes(self) -> list[int]:
        """Rows of each group; checks the column."""
        with self._opened() as file:
            schema = file.schema_arrow
            if self._column not in schema.names:
                raise InvalidSourceError(
                    f"{self._table.uri} has no column '{self._column}'; it has: {', '.join(schema.names)}; name one "
                    f"with --column"
                )
            kind = schema.field(self._column).type
            if not _holds_bytes(kind):
                raise InvalidSourceError(
                    f"column '{self._column}' of {self._table.uri} is {kind}; expected binary, the pictures' bytes, or "
                    f"a struct with a field 'bytes' of them"
                )
            return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]

    def read(self, group: int, offset: int) -> bytes:
        """One picture's bytes."""
        with self._lock:
            values = self._kept.get(group)
            if values is None:
                values = self._read_group(group)
                self._kept[group] = values
                while len(self._kept) > _KEPT_GROUPS:
                    self._kept.popitem(last=False)
        value = values[offset].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise UnreadableInputError(f"row {offset} of row group {group} of {self._table.uri} holds no picture")
        return bytes(data)

    def _read_group(self, group: int) -> Any:
        with self._opened() as file:
            try:
                return file.read_row_group(group, columns=[self._column]).column(0)
            except (ValueError, OSError) as error:  # Arrow's errors are of these kinds, too
                raise UnreadableInputError(f"row group {group} of {self._table.uri} is damaged ({error})") from error

    def _opened(self) -> Any:
        try:
            import pyarrow as pa
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise MissingExtraError("Parquet needs pyarrow; install it with: pip install 'salf[batch]'") from error
        file = self._table.open()
        try:
            return parquet.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:  # Arrow calls a damaged footer an OSError
            raise InvalidSourceError(f"{self._table.uri} is no Parquet file ({error})") from error


def _holds_bytes(kind: Any) -> bool:
    """Whether a column of this type holds pictures: bytes, or a struct with a field of them."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_bytes(kind.field(position).type)
    return not pa.types.is_nested(kind) and "binary" in str(kind)
