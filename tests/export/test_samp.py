"""Tables over SAMP to a tool at astropy's own hub, and highlights both ways."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from astropy.samp import SAMPHubServer, SAMPIntegratedClient
from astropy.table import Table

from specdb.errors import InputError
from specdb.export.samp import SampError, SampLink

ROWS = pa.table({"spectrum_id": [2**53 + 1, 7], "ra": [10.5, 11.5]})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:{(tmp_path / 'samp').as_uri()}")
    server = SAMPHubServer(web_profile=False, addr="127.0.0.1", lockfile=str(tmp_path / "samp"), pool_size=4)
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
        self.client = SAMPIntegratedClient(name="Topcat", addr="127.0.0.1")
        self.client.connect()
        self.client.bind_receive_call("table.load.votable", self._load)
        self.client.bind_receive_notification("table.highlight.row", self._row)

    def _load(self, key: str, sender: str, message: str, mtype: str, params: dict, extra: dict) -> None:
        # astropy passes (private_key, sender_id, msg_id, mtype, params, extra)
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
