"""Pulling from a stand-in of the hub on this machine; no network is used."""

from __future__ import annotations

import hashlib
import io
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from specdb.encoders import hub
from specdb.encoders.card import load_model
from specdb.encoders.hub import OFFICIAL_ENCODERS, HubFile, pull
from specdb.errors import CheckpointError, DependencyError, InputError
from tests.encoders.helpers import SMALL, small_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def checkpoint() -> bytes:
    out = io.BytesIO()
    torch.save({"state_dict": small_model("xp_oae").state_dict(), "hyper_parameters": {}}, out)
    return out.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server that speaks enough of the hub's protocol to deliver one file at one commit."""
    pytest.importorskip("huggingface_hub")
    data = checkpoint()
    known = OFFICIAL_ENCODERS["specclip-xp"]
    wanted = f"/{known.repo}/resolve/{COMMIT}/{known.filename}"

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            found = self.path == wanted
            self.send_response(200 if found else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            if found:
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("Content-Length", str(len(data)))
            else:
                self.send_header("X-Error-Code", "RevisionNotFound" if COMMIT not in self.path else "EntryNotFound")
                self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            if self.path == wanted:
                self.wfile.write(data)

        def log_message(self, *args): ...

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", hashlib.sha256(data).hexdigest()
        running.shutdown()
        thread.join()


def test_pull(server, tmp_path):
    endpoint, sha256 = server
    card = pull("specclip-xp", tmp_path / "out", revision=COMMIT, sha256=sha256.upper(), endpoint=endpoint)
    assert card.config == SMALL["xp_oae"] and card.licence == "MIT"
    assert card.provenance["revision"] == COMMIT and card.provenance["file_sha256"] == sha256
    assert card.provenance["hash_check"] == "equal to the expected SHA-256"
    load_model(tmp_path / "out" / "specclip-xp")


def test_trust_is_written_down(server, tmp_path):
    endpoint, sha256 = server
    card = pull("specclip-xp", tmp_path / "out", revision=COMMIT, trust_first_download=True, endpoint=endpoint)
    assert card.provenance["hash_check"] == "none: first download trusted" and card.provenance["file_sha256"] == sha256


def test_wrong_hash(server, tmp_path):
    with pytest.raises(CheckpointError, match=r"has SHA-256 .*, expected 0000.*not imported"):
        pull("specclip-xp", tmp_path / "out", revision=COMMIT, sha256="0" * 64, endpoint=server[0])
    assert not (tmp_path / "out").exists()


def test_recorded_pins(server, tmp_path, monkeypatch):
    endpoint, sha256 = server
    known = OFFICIAL_ENCODERS["specclip-xp"]
    monkeypatch.setitem(OFFICIAL_ENCODERS, "specclip-xp", HubFile(known.repo, known.filename, "", COMMIT, sha256))
    assert pull("specclip-xp", tmp_path / "out", endpoint=endpoint).provenance["revision"] == COMMIT
    with pytest.raises(InputError, match="is recorded for this encoder; leave the option out"):
        pull("specclip-xp", tmp_path / "out", revision="f" * 40, endpoint=endpoint)
    with pytest.raises(InputError, match=r"sha256 is 0000.* is recorded"):
        pull("specclip-xp", tmp_path / "out", sha256="0" * 64, trust_first_download=True, endpoint=endpoint)


def test_unknown_revision_and_file(server, tmp_path):
    with pytest.raises(CheckpointError, match=r"does not exist on the hub .repository or revision unknown"):
        pull("specclip-xp", tmp_path, revision="f" * 40, trust_first_download=True, endpoint=server[0])
    with pytest.raises(CheckpointError, match="the repository has no such file"):
        pull("specclip-lrs", tmp_path, revision=COMMIT, trust_first_download=True, endpoint=server[0])


@pytest.mark.slow  # the hub's client tries several times
def test_nobody_answers(server, tmp_path):
    with pytest.raises(CheckpointError, match=r"could not be fetched .*specdb encoders import FILE.ckpt.*works offline"):
        pull("specclip-xp", tmp_path, revision=COMMIT, trust_first_download=True, endpoint="http://127.0.0.1:9")


def test_offline(server, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"could not be fetched .*specdb encoders import FILE.ckpt.*works offline"):
        pull("specclip-xp", tmp_path, revision=COMMIT, trust_first_download=True, endpoint=server[0])


def test_pins_are_needed(tmp_path):
    with pytest.raises(InputError, match="no official encoder is called 'gpt'; known: specclip-split"):
        pull("gpt")
    with pytest.raises(InputError, match=r"no revision is recorded .* give --revision"):
        pull("specclip-split", tmp_path)
    with pytest.raises(InputError, match="revision is 'main'; it must be 40 hexadecimal digits"):
        pull("specclip-split", tmp_path, revision="main")
    with pytest.raises(InputError, match=r"no sha256 is recorded .* --trust-first-download"):
        pull("specclip-split", tmp_path, revision=COMMIT)
    with pytest.raises(InputError, match="sha256 is 'abc'"):
        pull("specclip-split", tmp_path, revision=COMMIT, sha256="abc")


def test_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match=r"pip install 'specdb\[hub\]'"):
        hub.pull("specclip-split", tmp_path, revision=COMMIT, trust_first_download=True)
