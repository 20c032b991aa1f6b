"""Every kind of input becomes sources; nothing met goes uncounted, nothing missing goes unsaid."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdb.errors import InputError, ReadError
from specdb.spectra import Source, expand_sources
from specdb.spectra.readers import OpenSource

FITS = (".fits", ".fits.gz")


def names(*inputs: str | Path, suffixes: tuple[str, ...] = FITS) -> list[str]:
    return [(source.member or source.path.name) for source in expand_sources(inputs, suffixes)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.fits", "a.fits.gz", "notes.md", ".hidden.fits", "sub/c.fits", ".git/d.fits", "sub/deep/e.csv"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "tree"


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith(("gz",)) else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_is_walked_in_order_and_everything_but_hidden_files_is_delivered(tree: Path) -> None:
    assert names(tree) == ["a.fits.gz", "b.fits", "notes.md", "c.fits", "e.csv"]
    assert not any(source.named for source in expand_sources([tree]))
    assert list(expand_sources([tree])) == list(expand_sources([tree]))


def test_a_named_file_is_marked_even_if_hidden(tree: Path) -> None:
    (source,) = expand_sources([tree / ".hidden.fits"])
    assert source.named
    assert source.name == (tree / ".hidden.fits").as_posix()


def test_links_are_followed_but_not_round_in_circles(tree: Path) -> None:
    (tree / "sub" / "back").symlink_to(tree, target_is_directory=True)
    (tree / "sub" / "twin.fits").symlink_to(tree / "b.fits")
    assert names(tree) == ["a.fits.gz", "b.fits", "notes.md", "c.fits", "e.csv", "twin.fits"]


def test_a_dangling_link_is_counted_and_cannot_be_read(tree: Path) -> None:
    (tree / "gone.fits").symlink_to(tree / "nowhere")
    gone = [source for source in expand_sources([tree]) if source.path.name == "gone.fits"]
    with pytest.raises(ReadError, match=r"unreadable: .*No such file"):
        gone[0].read_bytes()


def test_pipes_are_left_out(tree: Path) -> None:
    os.mkfifo(tree / "pipe.fits")
    assert "pipe.fits" not in names(tree)


def test_a_folder_that_cannot_be_listed_is_counted(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (locked,) = [source for source in expand_sources([tree]) if source.damage]
    with pytest.raises(ReadError, match=r"unreadable: .*cannot be listed"):
        locked.read_bytes()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.fits", ["b.fits"]),
        ("**/*.fits", ["b.fits", "c.fits"]),
        ("[ab].*", ["a.fits.gz", "b.fits"]),
        ("s?b", ["c.fits", "e.csv"]),
        ("**", ["a.fits.gz", "b.fits", "notes.md", "c.fits", "e.csv"]),
        ("*/deep/*", ["e.csv"]),
    ],
)
def test_globs(tree: Path, pattern: str, expected: list[str]) -> None:
    assert names(f"{tree}/{pattern}") == expected


def test_relative_globs(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert [source.name for source in expand_sources(["sub/*.fits"])] == [(tree / "sub/c.fits").as_posix()]


def test_a_file_whose_name_looks_like_a_pattern_is_taken_literally(tmp_path: Path) -> None:
    (tmp_path / "x[1].fits").write_bytes(b"x")
    assert names(tmp_path / "x[1].fits") == ["x[1].fits"]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz"])
def test_members_of_archives_are_read_without_unpacking(tmp_path: Path, ending: str) -> None:
    content = {
        "one.fits": b"1" * 1000,
        "dir/two.fits": b"2" * 3,
        ".hidden": b"h",
        "dir/._two.fits": b"mac",
        "x" * 150: b"long",
    }
    archive = make_tar(tmp_path / f"spectra{ending}", content)
    sources = list(expand_sources([archive]))
    assert [source.member for source in sources] == ["one.fits", "dir/two.fits", "x" * 150]
    assert sources[1].name == f"{archive.as_posix()}::dir/two.fits"
    assert all((source.offset > 0) == (ending == ".tar") for source in sources)
    for source in reversed(pickle.loads(pickle.dumps(sources))):  # noqa: S301 - our own objects, as multiprocessing sends them
        assert source.read_bytes() == content[source.member]
    assert sources[0].read_bytes(10) == b"1" * 10


def test_archives_are_entered_where_they_are_met(tree: Path) -> None:
    make_tar(tree / "more.tar", {"m.fits": b"m"})
    assert names(tree) == ["a.fits.gz", "b.fits", "m.fits", "notes.md", "c.fits", "e.csv"]


def test_a_compressed_archive_named_tar_still_gives_its_members(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tar.gz", {"m.fits": b"m" * 600}).rename(tmp_path / "x.tar")
    (source,) = expand_sources([archive])
    assert source.read_bytes() == b"m" * 600


def test_links_in_archives_are_counted_as_unreadable(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "l.tar", "w") as tar:
        info = tarfile.TarInfo("link.fits")
        info.type, info.linkname = tarfile.SYMTYPE, "elsewhere"
        tar.addfile(info)
    (source,) = expand_sources([tmp_path / "l.tar"])
    with pytest.raises(ReadError, match="unreadable: the member is a link"):
        source.read_bytes()


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_a_truncated_archive_gives_what_it_has_and_then_says_so(tmp_path: Path, ending: str) -> None:
    content = {f"{i}.fits": os.urandom(5000) for i in range(20)}
    archive = make_tar(tmp_path / f"x{ending}", content)
    archive.write_bytes(archive.read_bytes()[:40000])
    good, bad = [], []
    for source in expand_sources([archive]):
        try:
            good.append(source.read_bytes() == content[source.member])
        except ReadError as error:
            bad.append(error.reason)
    assert len(good) >= 4 and all(good)
    assert set(bad) == {"truncated"}


def test_garbage_named_tar_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no archive" * 500)
    (source,) = expand_sources([tmp_path / "x.tar"])
    with pytest.raises(ReadError, match="corrupt: tar archive"):
        source.read_bytes()


def test_an_archive_that_shrank_is_truncated(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tar", {"a.fits": b"a" * 5000})
    (source,) = expand_sources([archive])
    os.truncate(archive, 2000)
    with pytest.raises(ReadError, match="truncated: the archive ends after 1488 of the member's 5000 bytes"):
        source.read_bytes()


@pytest.mark.parametrize("name", ["@list.txt", "chosen.lst", "chosen.LIST"])
def test_lists_of_paths(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make_tar(tmp_path / "m.tar", {"m.fits": b"m"})
    lines = ["# chosen by hand", "", "tree/b.fits", f"{tree}/sub", " tree/*.gz ", "m.tar", "missing.fits", "no*thing"]
    (tmp_path / name.lstrip("@")).write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    sources = list(expand_sources([name]))
    found = [source.member or source.path.name for source in sources]
    assert found == ["b.fits", "c.fits", "e.csv", "a.fits.gz", "m.fits", "missing.fits", "no*thing"]
    assert sources[0].named and not sources[1].named
    for bad in sources[-2:]:
        with pytest.raises(ReadError, match="unreadable"):
            bad.read_bytes()


def test_a_txt_of_paths_is_a_list_and_a_txt_of_numbers_is_not(tree: Path, tmp_path: Path) -> None:
    paths, numbers = tmp_path / "paths.txt", tmp_path / "numbers.txt"
    paths.write_text("tree/b.fits\nnot_here_yet.fits.gz\n")
    numbers.write_text("4000.0 1.0\n4001.0 1.1\n")
    assert names(paths) == ["b.fits", "not_here_yet.fits.gz"]
    assert names(numbers) == ["numbers.txt"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere.fits", "there is no file or folder '.*nowhere.fits'"),
        (lambda p: f"{p}/*.nothing", r"the pattern '.*\*.nothing' matches no file"),
        (lambda p: (p / "empty").mkdir() or p / "empty", "the folder '.*empty' holds no file"),
        (lambda p: f"@{p}/nowhere.txt", "there is no list of paths '.*nowhere.txt'"),
        (lambda p: (p / "e.lst").write_text("# none\n") and p / "e.lst", "the list '.*e.lst' holds no file"),
        (lambda p: make_tar(p / "e.tar", {}), "the archive '.*e.tar' holds no file"),
    ],
)
def test_an_input_without_sources_is_refused_at_the_call(tmp_path: Path, make, message: str) -> None:
    (tmp_path / "good.fits").write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        expand_sources([tmp_path / "good.fits", make(tmp_path)])


def test_no_input_at_all() -> None:
    with pytest.raises(InputError, match="no input was named"):
        expand_sources([])


def test_names_that_are_not_utf8_can_be_stored(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.fits"))
    path.write_bytes(b"x")
    (source,) = expand_sources([tmp_path])
    assert source.name.encode("utf-8").endswith(b"\\xff.fits")
    assert source.read_bytes() == b"x"


def test_reading_errors_have_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty.fits").write_bytes(b"")
    (tmp_path / "zero.fits.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "cut.fits.gz").write_bytes(gzip.compress(os.urandom(1000))[:500])
    (tmp_path / "bad.fits.gz").write_bytes(gzip.compress(b"x" * 1000)[:10] + b"\xff" * 100)
    reasons = {}
    for path in [*sorted(tmp_path.iterdir()), tmp_path / "gone", tmp_path, Path("nul\0l")]:
        with pytest.raises(ReadError) as caught:
            _ = OpenSource(Source(path)).data
        reasons[path.name] = caught.value.reason
    expected = {
        "empty.fits": "empty_file",
        "zero.fits.gz": "empty_file",
        "cut.fits.gz": "truncated",
        "bad.fits.gz": "corrupt",
    }
    assert reasons == expected | {"gone": "unreadable", tmp_path.name: "unreadable", "nul\0l": "unreadable"}


def test_gzip_is_recognised_by_content_and_may_have_several_parts_and_padding(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    path.write_bytes(gzip.compress(b"one") + gzip.compress(b"two") + b"\0" * 512)
    opened = OpenSource(Source(path))
    assert opened.data == b"onetwo" and opened.head == b"onetwo" and opened.stream().read() == b"onetwo"


@pytest.mark.parametrize("zipped", [False, True])
def test_large_files_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.setattr("specdb.spectra.readers.opened._IN_MEMORY", 100)
    content = os.urandom(20000)
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(content) if zipped else content)
    opened = OpenSource(Source(path))
    assert opened.head == content[:8192]
    with opened.stream() as stream:
        assert stream.read() == content
    assert "data" not in vars(opened)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.from_regex(r"\A([a-c]/){0,3}[a-z]{1,3}\.(fits|csv)\Z"), max_size=12, unique=True), st.data())
def test_as_many_sources_come_out_as_files_went_in(tmp_path_factory, paths: list[str], data) -> None:
    root = tmp_path_factory.mktemp("walk")
    for name in paths:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    if not paths:
        with pytest.raises(InputError):
            expand_sources([root])
        return
    found = list(expand_sources([root], FITS))
    assert sorted(source.path.relative_to(root).as_posix() for source in found) == sorted(paths)
    chosen = data.draw(st.lists(st.sampled_from(paths), min_size=1))
    assert len(list(expand_sources([root / name for name in chosen], FITS))) == len(chosen)


def test_a_database_among_the_files_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "spec.fits").touch()
    (tmp_path / "mydb" / "spectra").mkdir(parents=True)
    (tmp_path / "mydb" / "specdb.toml").touch()
    (tmp_path / "mydb" / "spectra" / "part-00000.parquet").touch()
    assert [source.path.name for source in expand_sources([tmp_path])] == ["spec.fits"]


@pytest.mark.parametrize("cut", [0, 300])
def test_an_archive_cut_at_a_header_is_truncated(tmp_path: Path, cut: int) -> None:
    whole = tmp_path / "whole.tar"
    with tarfile.open(whole, "w") as tar:
        for name in ("a.fits", "b.fits"):
            info = tarfile.TarInfo(name)
            info.size = 512
            tar.addfile(info, io.BytesIO(b"x" * 512))
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: 1024 + cut])
    found = list(expand_sources([tmp_path / "cut.tar"]))
    assert [source.member for source in found] == ["a.fits", ""]
    with pytest.raises(ReadError, match="ends early"):
        found[1].read_bytes()
    assert len(list(expand_sources(str(whole)))) == 2
