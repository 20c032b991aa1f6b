"""Uploads: limits before anything is parsed, reading apart, bombs of every format, and what is told about it."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("streamlit")

from specdb.database import Database, open_database
from specdb.errors import InputError, QueryError
from specdb.store import Store
from ui import reading, uploads
from ui.reading import read_apart
from ui.uploads import check_upload, read_upload


def fits(**cards: int) -> bytes:
    facts = {"SIMPLE": "T", "BITPIX": 8, "NAXIS": 0} | cards
    text = "".join(f"{name:<8}= {value:>20}".ljust(80) for name, value in facts.items()) + "END".ljust(80)
    return text.ljust(2880).encode()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.exe", b"x", "not read here"),
        ("a.pkl", b"x", "not read here"),
        ("a.csv", b"", "empty"),
        ("a.csv", b"1" * (20 << 20) + b"1", "up to 20 MB"),
        ("a.fits.gz", b"\x1f\x8b" + b"junk" * 20, "damaged"),
        ("a.fits", b"junk" * 1000, "no end"),
        ("a.fits", fits(NAXIS=1, NAXIS1=10**9), "promises"),
        ("a.fits", fits(NAXIS=2, NAXIS1=10**9, NAXIS2=10**9), "promises"),
        ("a.fits", fits(NAXIS=1, NAXIS1=-5), "absurd"),
        ("a.fits", fits(NAXIS=10**6), "absurd"),
        ("a.fits", fits(NAXIS=1, NAXIS1=10, PCOUNT=10**15), "promises"),
        ("a.fits", fits(NAXIS=1, NAXIS1=10, GCOUNT=-1), "absurd"),
        ("a.fits", fits(BITPIX=10**18, NAXIS=1, NAXIS1=10**18), "promises"),
        ("a.fits", fits(**{f"K{i}": i for i in range(8000)}), "no end"),
        ("a.fits", fits() + b"".join(fits().replace(b"SIMPLE  =", b"XTENSION=") for _ in range(120)), "more than 100"),
        ("a.npz", b"junk", "no npz"),
        ("a.parquet", b"junk", "Parquet"),
        ("a.h5", b"junk", "HDF5"),
    ],
)
def test_uploads_outside_the_limits(name: str, content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_upload(name, content)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """The most that may be unpacked, made small, so that bombs are, too."""
    monkeypatch.setattr(uploads, "MOST_UNPACKED", 1 << 20)
    monkeypatch.setattr(uploads, "_MOST_OBJECTS", 100)
    return 1 << 20


def test_gzip_and_npz_bombs_are_not_unpacked(small: int) -> None:
    zeros = gzip.compress(bytes(small + 1), compresslevel=6)
    with pytest.raises(InputError, match="unpacked"):
        check_upload("a.fits.gz", zeros)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flux.npy", bytes(small + 1))
    with pytest.raises(InputError, match="unpacked"):
        check_upload("a.npz", held.getvalue())
    with pytest.raises(InputError, match="cut off"):
        check_upload("a.fits.gz", gzip.compress(fits())[:-9])


def test_parquet_that_repeats_one_value_is_counted_by_its_values(small: int) -> None:
    held = io.BytesIO()
    lists = pa.ListArray.from_arrays(pa.array([0, 200_000], pa.int32()), pa.array(np.ones(200_000, np.float32)))
    pq.write_table(pa.table({"flux": lists}), held, compression="zstd")
    assert len(held.getvalue()) < small // 100
    with pytest.raises(InputError, match="unpacked"):
        check_upload("a.parquet", held.getvalue())


@pytest.mark.parametrize("kind", ["link", "data", "virtual", "many"])
def test_hdf5_that_reads_other_files_is_declined(kind: str, tmp_path: Path, small: int) -> None:
    path = tmp_path / "a.h5"
    (tmp_path / "other.raw").write_bytes(bytes(400))
    with h5py.File(path, "w") as file:
        deep = file.create_group("some/where/deep")
        if kind == "link":
            deep["flux"] = h5py.ExternalLink("/etc/hostname", "/")
        elif kind == "data":
            deep.create_dataset("flux", (100,), "f4", external=[(str(tmp_path / "other.raw"), 0, 400)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((100,), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "flux", (100,))
            deep.create_virtual_dataset("flux", layout)
        else:
            for i in range(101):
                file.create_group(f"g{i}")
    with pytest.raises(InputError, match="more than 100" if kind == "many" else "stands alone"):
        check_upload("a.h5", path.read_bytes())


def test_hdf5_that_promises_too_much_or_goes_round(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("flux", (10**12,), "f4", chunks=(1000,))  # empty chunks take no room
    with pytest.raises(InputError, match="unpacked"):
        check_upload("a.h5", path.read_bytes())
    with h5py.File(path, "w") as file:
        file.create_group("a")["again"] = file["/"]
    assert check_upload("a.h5", path.read_bytes()) == ".h5"


def test_a_sound_file_passes() -> None:
    assert check_upload("x.FITS", fits()) == ".fits"
    assert check_upload("x.csv", b"wavelength,flux\n4000,1\n") == ".csv"


@pytest.fixture
def db(tmp_path: Path) -> Database:
    Store.create(tmp_path / "db", "specclip-mini")
    return open_database(tmp_path / "db")


def text_spectrum() -> bytes:
    rows = (f"{w:.1f},{1 + 0.1 * np.sin(w / 50):.5f}" for w in np.arange(3900, 9000, 1.4))
    return ("wavelength,flux\n" + "\n".join(rows) + "\n").encode()


def test_a_file_is_read_apart_as_it_would_be_here(db: Database) -> None:
    found = read_upload(db, "my <b>star</b>.csv", text_spectrum(), "lamost_lrs")
    assert found.spectra is not None
    assert found.spectra.flux.shape == (1, 3643)
    assert (found.name, found.modality) == ("b_.csv", "lamost_lrs")
    with pytest.raises((QueryError, InputError)) as caught:
        read_upload(db, "mine.csv", b"a,b\n1,2\n", "lamost_lrs")
    assert "mine.csv" in str(caught.value)
    assert "specdb-upload" not in str(caught.value)


def test_what_takes_too_much_memory_or_time_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "upload.csv"
    path.write_bytes(text_spectrum())
    with monkeypatch.context() as patch, pytest.raises(InputError, match="more memory"):
        # Damaged beyond what the checks see: whatever kills the reader, the server lives.
        _with_command(patch, "import os; os.abort()")
        read_apart(path, ["lamost_lrs"])
    monkeypatch.setattr(reading, "MOST_SECONDS", 1)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="more than 1 s"):
        _with_command(patch, "import time; time.sleep(30)")
        read_apart(path, ["lamost_lrs"])


def _with_command(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    run = reading.subprocess.run

    def other(command: list[str], **rest: object) -> object:
        return run([command[0], "-c", code], **rest)  # type: ignore[call-overload]

    monkeypatch.setattr(reading.subprocess, "run", other)


def test_the_memory_of_the_reader_is_bounded() -> None:
    pytest.importorskip("resource")
    import subprocess
    import sys

    code = "from ui.reading import _limit; _limit(); bytearray(4 << 30)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 1
    assert "MemoryError" in done.stderr
