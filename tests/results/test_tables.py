"""Tables of measured latencies."""

from pathlib import Path

import numpy as np
import pytest

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError, UnknownNameError
from medusa_bench.results import tables
from medusa_bench.results.rows import Timing
from medusa_bench.specs import profiles

GOOD = {"dtype": ["float16"] * 3, "m": [1, 2, 3], "n": [64] * 3, "k": [64] * 3,
        "latency_us": [5.0, 6.0, 7.0]}  # fmt: skip


def csv(path: Path, columns: dict[str, list[object]]) -> Path:
    lines = [",".join(columns)]
    lines += [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_csv_and_a_parquet_file_read_alike(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    columns = {**GOOD, "batch": [4, 5, 6], "gpu": ["a40"] * 3, "model": ["x", "y", "z"]}
    pandas.DataFrame(columns).to_parquet(tmp_path / "table.parquet")
    for path in (csv(tmp_path / "table.csv", columns), tmp_path / "table.parquet"):
        rows = tables.read(path)
        assert rows.products.batch.tolist() == [4, 5, 6]
        assert rows.latency_s == pytest.approx([5e-6, 6e-6, 7e-6])
        assert rows.model.tolist() == ["x", "y", "z"]
        assert rows.source.tolist() == [""] * 3


def test_without_a_batch_column_each_row_is_one_product(tmp_path: Path) -> None:
    assert tables.read(csv(tmp_path / "t.csv", GOOD)).products.batch.tolist() == [1, 1, 1]


@pytest.mark.parametrize("missing", list(tables.REQUIRED))
def test_a_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    columns = {name: values for name, values in GOOD.items() if name != missing}
    with pytest.raises(InvalidFileError, match=f"lacks the column {missing}"):
        tables.read(csv(tmp_path / "t.csv", columns))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("latency_us", "nan"), ("latency_us", "inf"), ("latency_us", "0"), ("latency_us", "-1"),
        ("latency_us", "fast"), ("latency_us", ""), ("m", "1.5"), ("n", "0"), ("k", "1e300"),
        ("dtype", "float12"),
    ],
)  # fmt: skip
def test_a_senseless_value_is_refused_with_its_row(tmp_path: Path, column: str, value: str) -> None:
    columns = {**GOOD, column: [GOOD[column][0], value, GOOD[column][2]]}
    with pytest.raises(InvalidFileError, match=rf"row 2: {column} is"):
        tables.read(csv(tmp_path / "t.csv", columns))


def test_a_row_of_too_few_cells_is_refused_with_its_number(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", GOOD)
    path.write_text(path.read_text() + "float16,1\n")
    with pytest.raises(InvalidFileError, match="row 4"):
        tables.read(path)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"m,m\n1,2\n", b"dtype,m,n,k,latency_us\n"]
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("t.csv", "t.parquet"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidFileError):
            tables.read(tmp_path / name)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(InvalidFileError, match="cannot be read"):
        tables.read(Path("nowhere.csv"))


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("a40", "a40"), ("NVIDIA A40", "a40"), ("a100_sxm", "a100-80gb-sxm"),
        ("h100_sxm", "h100-sxm"), ("h200_sxm", "h200-sxm"), ("l40s", "l40s"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"), ("b200_sxm", "b200"),
    ],
)  # fmt: skip
def test_gpus_are_known_by_profile_device_and_published_names(name: str, profile: str) -> None:
    assert profiles.profile_of(name).name == profile


def test_an_unknown_gpu_is_never_a_near_match() -> None:
    with pytest.raises(UnknownNameError):
        profiles.profile_of("A4000")


def test_the_gpu_can_be_given_for_rows_that_name_none(tmp_path: Path) -> None:
    rows = tables.read(csv(tmp_path / "t.csv", GOOD))
    with pytest.raises(MedusaBenchError, match="do not say which GPU"):
        tables.with_gpu(rows, None)
    assert set(tables.with_gpu(rows, "l4").gpu) == {"l4"}


def test_of_several_gpus_the_one_given_is_taken(tmp_path: Path) -> None:
    columns = {**GOOD, "gpu": ["a40", "h100_sxm", "a40"]}
    rows = tables.read(csv(tmp_path / "t.csv", columns))
    assert tables.with_gpu(rows, "NVIDIA A40").products.m.tolist() == [1, 3]
    with pytest.raises(MedusaBenchError, match="None of the rows"):
        tables.with_gpu(rows, "l4")


def test_the_papers_folder_gives_its_160_distinct_cells() -> None:
    rows = tables.read(Path("results/paper"))
    assert len(rows) == 160
    assert rows.timing is Timing.EAGER
    assert np.unique(rows.op).tolist() == ["qk", "up"]


def test_joined_tables_keep_every_row(tmp_path: Path) -> None:
    rows = tables.read(csv(tmp_path / "t.csv", GOOD))
    assert tables.joined([rows, rows]).products.m.tolist() == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "latency_us", "dtype", "gpu"),
    [
        ("M,N,K,latency_us,dtype\n1024,4096,4096,150,fp16\n", 150.0, "float16", ""),
        (" m ,n,k,latency_ms,dtype\n1024,4096,4096,0.15,half\n", 150.0, "float16", ""),
        (
            "framework,device,op_name,gemm_dtype,m,n,k,latency,power\n"
            "TRTLLM,NVIDIA H200,gemm,bfloat16,1024,4096,4096,0.062,500.0\n",
            62.0, "bfloat16", "NVIDIA H200",
        ),
        (
            "Provider,OperationKind,Operation,m,n,k,A,batch_count,Runtime\n"
            "cuBLAS,gemm,gemm_h1,1024,4096,4096,f16:column,1,0.150\n",
            150.0, "float16", "",
        ),
    ],
)  # fmt: skip
def test_tables_of_other_programs_are_read_as_they_are(
    tmp_path: Path, text: str, latency_us: float, dtype: str, gpu: str
) -> None:
    (tmp_path / "table.csv").write_text(text)
    found = tables.read(tmp_path / "table.csv")
    assert found.latency_s.tolist() == pytest.approx([latency_us * 1e-6])
    assert (found.dtype.tolist(), found.gpu.tolist()) == ([dtype], [gpu])
    assert found.products.m.tolist() == [1024]


def test_columns_are_named_and_a_latency_of_no_unit_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("rows,cols,depth,latency,type\n1,2,3,4,bf16\n")
    names = {"m": "rows", "n": "cols", "k": "depth", "dtype": "type"}
    with pytest.raises(InvalidFileError, match="lacks the column latency_us"):
        tables.read(path, names)
    found = tables.read(path, names | {"latency_ms": "latency"})
    assert found.latency_s.tolist() == pytest.approx([4e-3])
    with pytest.raises(InvalidFileError, match="no column 'row'"):
        tables.read(path, names | {"m": "row"})
