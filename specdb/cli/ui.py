"""`ui`: the similarity explorer."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import click

from specdb.cli.common import db_option

__all__ = ["server_command", "ui"]


def server_command(app: Path, port: int, *, share: bool, headless: bool) -> list[str]:
    """Return the command that serves the explorer, with every setting that matters for safety spelled out.

    Parameters
    ----------
    app : Path
        ``ui/app.py``.
    port : int
    share : bool
        Listen beyond this machine.
    headless : bool
        Open no browser.
    """
    settings = {
        "server.address": "0.0.0.0" if share else "127.0.0.1",
        "server.port": port,
        "server.headless": "true" if headless else "false",
        "server.enableXsrfProtection": "true",
        "server.enableCORS": "true",
        "server.fileWatcherType": "none",
        "server.maxUploadSize": 20,
        "server.maxMessageSize": 100,
        "server.enableStaticServing": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "runner.fastReruns": "true",
        # Of the colour-blind-safe palette, and readable on either ground.
        "theme.light.primaryColor": "#0072B2",
        "theme.dark.primaryColor": "#56B4E9",
    } | ({} if share else {"browser.serverAddress": "localhost"})
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "streamlit", "run", str(app), *options]


@click.command()
@db_option
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True, help="Where it listens.")
@click.option("--share", is_flag=True, help="Listen beyond this machine; a random token in the address lets people in.")
@click.option("--headless", is_flag=True, help="Open no browser.")
def ui(db: Path, port: int, share: bool, headless: bool) -> None:
    """Open the similarity explorer: map, star, anomalies, SQL, parameters, database.

    It listens on localhost only, unless --share is given. Stop it with Ctrl-C.
    """
    from specdb.errors import DependencyError
    from specdb.store import Store

    found = importlib.util.find_spec("ui")
    if importlib.util.find_spec("streamlit") is None or found is None or found.origin is None:
        raise DependencyError('the explorer needs streamlit: pip install "specdb[ui]"')
    Store.open(db)  # says in one line what is wrong with it
    token = secrets.token_urlsafe(24) if share else ""
    app = Path(found.origin).with_name("app.py")
    address = f"http://localhost:{port}/" + (f"?token={token}" if token else "")
    click.echo(f"the explorer is at {address}" + (" (from elsewhere: this machine's name)" if share else ""), err=True)
    # In the environment, where other users of this machine do not read it as they would a command line.
    environment = os.environ | {"SPECDB_UI_DB": str(db.resolve()), "SPECDB_UI_TOKEN": token}
    environment.pop("STREAMLIT_CONFIG_FILE", None)
    process = subprocess.Popen(server_command(app, port, share=share, headless=headless or share), env=environment)
    # Who stops this command means the server, too.
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        sys.exit(process.wait())
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
