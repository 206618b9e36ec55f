"""The Parquet of a manifest, as pandas and others write it -> its known columns as text."""

import pyarrow as pa
import pyarrow.compute as pc

from uadray.errors import InputError
from uadray.slides.manifest_columns import known_columns


def read_parquet(data: bytes, uri: str) -> pa.Table:
    """Read the known columns as text, `mpp` as a number, and each row's number as a spreadsheet would show it.

    Raises:
        InputError: it is no Parquet, or a column is missing or holds what cannot be read exactly.
    """
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        header = file.schema_arrow.names
        known = known_columns([name.strip() for name in header], uri)
        table = file.read(columns=[header[place] for place in known.values()])
        columns = {name: table[header[place]] for name, place in known.items()}
        table = pa.table({name: _as_read(column, name, uri) for name, column in columns.items()})
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{uri}: not a readable Parquet file: {' '.join(str(error).split())[:300]}") from error
    return table.append_column("row", pa.array(range(2, table.num_rows + 2), pa.int64()))


def _as_read(column: pa.ChunkedArray, name: str, uri: str) -> pa.ChunkedArray:
    """A column as text, `mpp` as float64 unless it is text; of a column of categories, the texts they stand for.

    pandas makes floating-point numbers of integers beside missing values; these are read as integers. Others are
    refused: an id of more than fifteen digits would become another id.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if name == "mpp":
        return column if pa.types.is_string(column.type) else column.cast(_mpp_type(column.type))
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        exact = pc.less(pc.abs(column), 10**15)
        if pc.all(exact).as_py() is False or pc.all(pc.equal(column, pc.floor(column))).as_py() is False:
            raise InputError(
                f"{uri}: column {name!r} holds floating-point numbers, which may not be what was meant; make it text"
            )
        column = column.cast(pa.int64())
    return column.cast(pa.string())


def _mpp_type(kind: pa.DataType) -> pa.DataType:
    is_text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return pa.string() if is_text else pa.float64()
