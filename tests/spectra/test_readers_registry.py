"""Which reader takes a source, and why a source is declined."""

from __future__ import annotations

import gzip
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from specdb.errors import FormatError, InputError, ReadError
from specdb.spectra import REASONS, Source, expand_sources
from specdb.spectra.readers import find_reader, get_reader, read_source, reader_names, suffixes_of
from specdb.spectra.readers.opened import OpenSource, codec_errors

from .lamost_files import lamost_bytes, write_lamost

GENERIC = ("columnar", "text")


def reason(source: Source, names=("lamost",)) -> str:
    with pytest.raises(ReadError) as caught:
        list(read_source(source, names))
    return caught.value.reason


def test_all_readers_are_registered() -> None:
    assert {"columnar", "lamost", "specclip_hdf5_lrs", "specclip_hdf5_xp", "text"} <= set(reader_names())
    assert reader_names() == sorted(reader_names())
    assert ".fits.gz" in suffixes_of(["lamost"]) and ".csv" in suffixes_of(["lamost", "text"])


def test_an_unknown_reader_is_an_error_of_the_caller() -> None:
    with pytest.raises(InputError, match=r"no reader is called 'lamots'; known readers: .*lamost.*text"):
        get_reader("lamots")
    with pytest.raises(InputError, match="no reader is called 'fits'"):
        next(read_source(Source(Path("x")), ["lamost"], file_format="fits"))


def test_the_detail_lists_what_each_reader_looked_for() -> None:
    with pytest.raises(FormatError) as caught:
        find_reader(OpenSource(Source(Path("x.bin"), content=b"\0\1\2")), ["lamost", "columnar", "text"])
    assert caught.value.reason == "unknown_format"
    for clause in (
        "lamost: looked for FITS",
        "columnar: looked for Parquet, HDF5 or npz",
        "text: looked for text, found binary",
    ):
        assert clause in caught.value.detail


def test_foreign_files_met_on_the_way_are_skipped_without_being_opened() -> None:
    assert reason(Source(Path("missing.md"), named=False)) == "not_a_spectrum"
    assert reason(Source(Path("missing.md"), named=True)) == "unreadable"
    assert reason(Source(Path("missing.fits"), named=False)) == "unreadable"


def test_damage_of_the_source_comes_first() -> None:
    assert reason(Source(Path("x.tar"), named=False, damage=("truncated", "cut"))) == "truncated"


def test_generic_formats_are_read_only_when_named(tmp_path: Path) -> None:
    path = tmp_path / "star.csv"
    path.write_text("wavelength,flux\n4000,1\n4001,2\n")
    names = ("lamost", *GENERIC)
    assert len(list(read_source(Source(path, named=True), names))) == 1
    assert reason(Source(path, named=False), names) == "not_a_spectrum"
    assert len(list(read_source(Source(path, named=False), ["lamost"], file_format="text"))) == 1


def test_other_instrument_wins_over_unknown_format() -> None:
    from astropy.io import fits

    card = fits.PrimaryHDU(np.ones((3, 3))).header.tostring()
    source = Source(Path("x.fits"), content=card.encode() + b"\0" * 2880)
    assert reason(source, ("lamost", *GENERIC)) == "other_instrument"


def test_a_source_is_decompressed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = Counter()
    original = Source.read_bytes

    def counted(self, limit: int = -1) -> bytes:
        calls["read"] += 1
        return original(self, limit)

    monkeypatch.setattr(Source, "read_bytes", counted)
    list(read_source(Source(write_lamost(tmp_path / "x.fits.gz")), ["specclip_hdf5_lrs", "lamost"]))
    assert calls == {"read": 1}


def test_whatever_a_codec_raises_becomes_a_read_error() -> None:
    class Broken:
        name, suffixes, native = "broken", (), True

        def identify(self, opened: OpenSource) -> None:
            return None

        def read(self, opened: OpenSource):
            yield from next(iter(read_source(Source(Path("x"), content=lamost_bytes("B")), ["lamost"]))).flux[:0]
            raise RuntimeError("segment 7 is odd")

    from specdb.spectra.readers import registry

    registry._READERS["broken"] = Broken()
    try:
        with pytest.raises(ReadError, match="corrupt: broken: RuntimeError: segment 7 is odd"):
            list(read_source(Source(Path("x"), content=b"x"), ["broken"]))
    finally:
        del registry._READERS["broken"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EOFError("end"), "truncated"),
        (gzip.BadGzipFile("bad"), "corrupt"),
        (OSError(5, "Input/output error"), "unreadable"),
        (OSError("bad content"), "corrupt"),
        (MemoryError(), "corrupt"),
        (ReadError("low_snr", "kept"), "low_snr"),
    ],
)
def test_errors_of_codecs_are_mapped(error: Exception, reason: str) -> None:
    with pytest.raises(ReadError) as caught, codec_errors("x"):
        raise error
    assert caught.value.reason == reason
    assert pickle.loads(pickle.dumps(caught.value)).detail == caught.value.detail  # noqa: S301 - as multiprocessing does


def test_a_mixed_folder_loses_nothing(tmp_path: Path) -> None:
    for i, layout in enumerate("ABC"):
        write_lamost(tmp_path / f"{i}.fits.gz", layout)
    (tmp_path / "empty.fits").write_bytes(b"")
    (tmp_path / "cut.fits.gz").write_bytes((tmp_path / "1.fits.gz").read_bytes()[:9000])
    (tmp_path / "page.fits").write_text("<html>")
    (tmp_path / "labels.csv").write_text("obsid,teff\n1,5000\n")
    outcome: Counter[str] = Counter()
    for source in expand_sources([tmp_path], suffixes_of(["lamost"])):
        try:
            outcome["spectra"] += sum(len(spectra) for spectra in read_source(source, ["lamost"]))
        except ReadError as error:
            outcome[REASONS[error.reason] + " " + error.reason] += 1
    assert outcome == {
        "spectra": 3,
        "failed empty_file": 1,
        "failed truncated": 1,
        "failed unknown_format": 1,
        "skipped not_a_spectrum": 1,
    }
