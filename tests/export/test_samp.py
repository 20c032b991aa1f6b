"""Tables over SAMP to a tool at pyvo's hub, and highlights both ways."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from astropy.table import Table
from click.testing import CliRunner

from specdb.cli import cli
from specdb.errors import DependencyError, InputError
from specdb.export import save_rows
from specdb.export.samp import SampError, SampLink

samp = pytest.importorskip("pyvo.samp", reason="the hub of the test is pyvo's")

ROWS = pa.table({"spectrum_id": [2**53 + 1, 7], "ra": [10.5, 11.5], "dec": [1.0, -2.0]})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:{(tmp_path / 'samp').as_uri()}")
    server = samp.SAMPHubServer(web_profile=False, addr="127.0.0.1", lockfile=str(tmp_path / "samp"), pool_size=4)
    server.start()
    yield
    server.stop()


class Tool:
    """A stand-in for TOPCAT: loads tables, tells of highlights."""

    def __init__(self, fails: bool = False) -> None:
        self.tables: list[Table] = []
        self.rows: list[tuple[str, str]] = []
        self.heard = threading.Event()
        self.fails = fails
        self.client = samp.SAMPIntegratedClient(name="Topcat", addr="127.0.0.1")
        self.client.connect()
        self.client.bind_receive_call("table.load.votable", self._load)
        self.client.bind_receive_notification("table.highlight.row", self._row)

    def _load(self, key: str, sender: str, message: str, mtype: str, params: dict, extra: dict) -> None:
        # pyvo passes (private_key, sender_id, msg_id, mtype, params, extra)
        if self.fails:
            self.client.ereply(message, "samp.error", error={"samp.errortxt": "no memory"})
            return
        self.tables.append(Table.read(params["url"].removeprefix("file://")))
        self.client.ereply(message, "samp.ok", result={})

    def _row(self, key: str, sender: str, mtype: str, params: dict, extra: dict) -> None:
        self.rows.append((params["table-id"], params["row"]))
        self.heard.set()


def test_a_table_arrives_with_its_ids_and_leaves_no_file(hub: None) -> None:
    tool = Tool()
    with SampLink(timeout_s=20) as link:
        assert link.send(ROWS, "twins", "topcat") == ["Topcat"]
        assert link.send(ROWS, "twins again") == ["Topcat"]
        folder = Path(link._folder.name)
        assert len(list(folder.iterdir())) == 2
    assert not folder.exists()
    assert [table["spectrum_id"].tolist() for table in tool.tables] == [[2**53 + 1, 7]] * 2
    tool.client.disconnect()


def test_highlights_go_both_ways(hub: None) -> None:
    tool, seen, heard = Tool(), [], threading.Event()

    def highlighted(row: int) -> None:
        seen.append(row)
        heard.set()

    with SampLink(timeout_s=20) as link:
        link.send(ROWS, "twins")
        link.on_highlight("twins", highlighted)
        for table_id, row in (("specdb:other", "0"), ("specdb:twins", "nonsense"), ("specdb:twins", "1")):
            message = {"samp.mtype": "table.highlight.row", "samp.params": {"table-id": table_id, "row": row}}
            tool.client.notify_all(message)
        assert heard.wait(20)
        assert seen == [1]
        link.highlight("twins", 0)
        link.point_at(10.5, -3)
        assert tool.heard.wait(20)
        assert tool.rows == [("specdb:twins", "0")]
    tool.client.disconnect()


def test_positions_that_tools_point_at_arrive(hub: None) -> None:
    tool, seen, heard = Tool(), [], threading.Event()

    def pointed(ra: float, dec: float) -> None:
        seen.append((ra, dec))
        heard.set()

    with SampLink(timeout_s=20) as link:
        link.on_point(pointed)
        for params in ({"ra": "nonsense", "dec": "1"}, {"ra": "1"}):
            tool.client.notify_all({"samp.mtype": "coord.pointAt.sky", "samp.params": params})
        message = {"samp.mtype": "coord.pointAt.sky", "samp.params": {"ra": "10.25", "dec": "-3.5"}}
        answer = tool.client.call_and_wait(link._client.get_public_id(), message, "20")  # a call, which wants an answer
        assert answer["samp.status"] == "samp.ok"
        assert heard.wait(20)
        assert seen == [(10.25, -3.5)]
    tool.client.disconnect()


def test_a_file_is_sent_and_followed(hub: None, tmp_path: Path) -> None:
    save_rows(ROWS, tmp_path / "hits.vot")
    tool = Tool()
    said = CliRunner().invoke(cli, ["send", "topcat", str(tmp_path / "hits.vot"), "--follow"], input="7\n8\n")
    assert said.exit_code == 0, said.output
    assert "2 rows sent to Topcat" in said.stderr
    assert "'8' is not in the table that was sent" in said.stderr
    assert tool.heard.wait(20)
    assert tool.rows == [("specdb:specdb", "1")]
    assert tool.tables[0]["spectrum_id"].tolist() == [2**53 + 1, 7]
    tool.client.disconnect()


def test_what_is_highlighted_or_pointed_at_is_printed(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from specdb.cli import send

    class Link:
        def on_highlight(self, name: str, callback: Callable[[int], None]) -> None:
            callback(0)
            callback(5)  # a row that is not there

        def on_point(self, callback: Callable[[float, float], None]) -> None:
            callback(11.5, -2.001)
            callback(11.5, 40.0)

    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    send._follow(Link(), ROWS, "x")
    assert capsys.readouterr().out.split() == [str(2**53 + 1), "7"]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyvo.samp", "astropy.samp"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match=r'SAMP needs pyvo: pip install "specdb\[vo\]"'):
        SampLink()


def test_what_goes_wrong_is_said(hub: None) -> None:
    with SampLink(timeout_s=20) as link:
        with pytest.raises(SampError, match=r"aladin is not connected to the SAMP hub \(no tool that loads tables is\)"):
            link.send(ROWS, "twins", "aladin")
        tool = Tool(fails=True)
        with pytest.raises(SampError, match="Topcat could not load the table: no memory"):
            link.send(ROWS, "twins")
        with pytest.raises(InputError, match="no rows"):
            link.send(ROWS.slice(0, 0), "twins")
        tool.client.disconnect()


def test_without_a_hub_the_error_says_what_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:{(tmp_path / 'none').as_uri()}")
    with pytest.raises(SampError, match="no SAMP hub is running; start TOPCAT or Aladin"):
        SampLink()
