"""Tables to TOPCAT, Aladin and other desktop tools over SAMP, with row highlights in both directions.

SAMP is the messaging protocol of the Virtual Observatory (IVOA Recommendation 1.3). A hub must run on this machine: TOPCAT
and Aladin start one by themselves.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from specdb._version import __version__
from specdb.errors import DependencyError, InputError, SpecdbError
from specdb.export.files import save_rows
from specdb.rows import Rows

__all__ = ["SampError", "SampLink"]

_LOAD, _HIGHLIGHT, _POINT = "table.load.votable", "table.highlight.row", "coord.pointAt.sky"


def _samp() -> Any:
    """Return the SAMP package: pyvo's, or astropy's, from which it has moved and which will go."""
    for name in ("pyvo.samp", "astropy.samp"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise DependencyError('SAMP needs pyvo: pip install "specdb[vo]"')


class SampError(SpecdbError):
    """No hub, no such tool, or a tool that refused a message."""


class SampLink:
    """A connection to the SAMP hub of this machine; use it as a context manager.

    Parameters
    ----------
    timeout_s : float
        How long a tool may take to load a table.

    Raises
    ------
    SampError
        When no hub is running.
    """

    def __init__(self, timeout_s: float = 60.0) -> None:
        self._timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="specdb-samp-")
        self._callbacks: dict[str, Callable[[int], None]] = {}
        self._pointed: list[Callable[[float, float], None]] = []
        samp = _samp()
        self._client = samp.SAMPIntegratedClient(
            name="specdb",
            description="vector-search database of stellar spectra",
            metadata={"author.version": __version__},
            addr="127.0.0.1",  # nobody outside this machine may call back
        )
        try:
            self._client.connect()
        except samp.SAMPHubError:
            self._folder.cleanup()
            raise SampError("no SAMP hub is running; start TOPCAT or Aladin (they bring one), then try again") from None
        for bind in (self._client.bind_receive_notification, self._client.bind_receive_call):  # tools may ask either way
            bind(_HIGHLIGHT, self._highlighted)
            bind(_POINT, self._looked)

    def __enter__(self) -> SampLink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the hub and remove the files that were handed over."""
        if self._client.is_connected:
            self._client.disconnect()
        self._folder.cleanup()

    def tools(self) -> dict[str, str]:
        """Return the tools that load tables: SAMP id -> name."""
        return {i: self._client.get_metadata(i).get("samp.name", i) for i in self._client.get_subscribed_clients(_LOAD)}

    def send(self, rows: pa.Table | Rows, name: str, tool: str | None = None) -> list[str]:
        """Hand a table to a tool, or to all that load tables, as VOTable with units, UCDs and descriptions.

        Parameters
        ----------
        rows : pyarrow.Table or Rows
        name : str
            What the tool shows; also the table's identity for highlights.
        tool : str, optional
            A name or the beginning of one, in any case: ``topcat``, ``aladin``.

        Returns
        -------
        list of str
            Names of the tools that have loaded it.

        Raises
        ------
        SampError
            When no such tool is connected, or one could not load the table.
        InputError
            For an empty table.
        """
        count = len(rows)
        if count == 0:
            raise InputError("the table has no rows; there is nothing to send")
        tools = self.tools()
        chosen = [i for i, called in tools.items() if tool is None or called.lower().startswith(tool.lower())]
        if not chosen:
            connected = ", ".join(sorted(tools.values())) or "no tool that loads tables"
            raise SampError(f"{tool or 'no tool'} is not connected to the SAMP hub ({connected} is); start it and try again")
        path = Path(self._folder.name) / f"{len(list(Path(self._folder.name).iterdir()))}.vot"
        save_rows(rows, path, {"title": name})
        message = {
            "samp.mtype": _LOAD,
            "samp.params": {"url": path.as_uri(), "table-id": self._table_id(name), "name": name},
        }
        for client in chosen:
            # A call, not a notification: the file must stay until the tool has read it.
            response = self._client.call_and_wait(client, message, timeout=str(int(self._timeout_s)))
            if response.get("samp.status") != "samp.ok":
                error = response.get("samp.error", {}).get("samp.errortxt", "no reason given")
                raise SampError(f"{tools[client]} could not load the table: {error}")
        return [tools[i] for i in chosen]

    def highlight(self, name: str, row: int) -> None:
        """Ask all tools to highlight a row (counted from 0) of a table that was sent under `name`."""
        self._notify(_HIGHLIGHT, {"table-id": self._table_id(name), "row": str(row)})

    def point_at(self, ra: float, dec: float) -> None:
        """Ask all tools to look at a position (ICRS, degrees)."""
        self._notify(_POINT, {"ra": repr(float(ra)), "dec": repr(float(dec))})

    def on_highlight(self, name: str, callback: Callable[[int], None]) -> None:
        """Call back with the row (from 0) that the user highlights in a table sent under `name`, from another thread."""
        self._callbacks[self._table_id(name)] = callback

    def on_point(self, callback: Callable[[float, float], None]) -> None:
        """Call back with the position (ICRS, degrees) that another tool points at, from another thread."""
        self._pointed.append(callback)

    def _notify(self, mtype: str, params: dict[str, str]) -> None:
        self._client.notify_all({"samp.mtype": mtype, "samp.params": params})

    def _highlighted(self, *message: Any) -> None:
        params = self._params(message)
        callback = self._callbacks.get(str(params.get("table-id", "")))
        if callback is not None and str(params.get("row", "")).isdigit():
            callback(int(params["row"]))

    def _looked(self, *message: Any) -> None:
        params = self._params(message)
        try:
            ra, dec = float(params["ra"]), float(params["dec"])
        except (KeyError, TypeError, ValueError):
            return  # not a position
        for callback in self._pointed:
            callback(ra, dec)

    def _params(self, message: tuple[Any, ...]) -> dict[str, Any]:
        """Return the parameters of a message: a notification, or a call, which has an id more and wants an answer."""
        if len(message) == 6:
            self._client.ereply(message[2], "samp.ok", result={})
        return message[-2]

    @staticmethod
    def _table_id(name: str) -> str:
        return f"specdb:{name}"
