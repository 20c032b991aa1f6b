"""Fetch official checkpoints from Hugging Face by commit and hash, and convert them.

No revision or hash is recorded here yet: they could not be looked up where this was written, and a made-up pin would be
worse than none. Until `OFFICIAL_ENCODERS` holds them, the caller names the commit, and either the file's SHA-256 or,
explicitly, trust in what the hub delivers the first time. The card records which of the two it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdb.encoders.card import Card
from specdb.encoders.checkpoint import import_checkpoint
from specdb.errors import CheckpointError, DependencyError, InputError
from specdb.store.files import sha256_file

__all__ = ["OFFICIAL_ENCODERS", "HubFile", "pull"]


@dataclass(frozen=True)
class HubFile:
    """One checkpoint on Hugging Face; `revision` (a full commit) and `sha256` pin it where they are known."""

    repo: str
    filename: str
    title: str
    revision: str | None = None
    sha256: str | None = None
    licence: str = "MIT"


#: File names as in the official `config_retrieval.json` (GitHub, Xiaosheng-Zhao/SpecCLIP).
OFFICIAL_ENCODERS = {
    "specclip-split": HubFile(
        "astroshawn/SpecCLIP", "specclip/specclip_model_split_mlp.ckpt", "CLIP, 512 shared + 256 private"
    ),
    "specclip-pr": HubFile("astroshawn/SpecCLIP", "specclip/specclip_model_predrecon_mlp.ckpt", "CLIP with all decoders"),
    "specclip-lrs": HubFile("astroshawn/SpecCLIP", "encoders/lrs_encoder.ckpt", "LAMOST LRS masked transformer"),
    "specclip-xp": HubFile("astroshawn/SpecCLIP", "encoders/xp_encoder_mlp.ckpt", "Gaia XP auto-encoder"),
}


def pull(
    name: str,
    out_dir: str | Path | None = None,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    trust_first_download: bool = False,
    endpoint: str | None = None,
) -> Card:
    """Download an official checkpoint, check it, and convert it (`import_checkpoint`; nothing in it is executed).

    Parameters
    ----------
    name : str
        One of `OFFICIAL_ENCODERS`.
    out_dir : path, optional
        By default the user's folder of encoders.
    revision : str, optional
        Commit of the repository, 40 hexadecimal digits; needed where `OFFICIAL_ENCODERS` has none. Branches and tags
        move, so they are not accepted.
    sha256 : str, optional
        Of the file, 64 hexadecimal digits; needed where `OFFICIAL_ENCODERS` has none, unless `trust_first_download`.
    trust_first_download : bool
        Accept the file without a hash to compare with; the card then holds the hash found, for the next time.
    endpoint : str, optional
        Another server that speaks the hub's protocol (the environment variable HF_ENDPOINT does the same).

    Returns
    -------
    Card

    Raises
    ------
    InputError
        For an unknown name, or a pin that is missing, malformed, or contradicts the recorded one.
    DependencyError
        When `huggingface_hub` is not installed.
    CheckpointError
        When the file cannot be fetched or is not the expected one.
    """
    if name not in OFFICIAL_ENCODERS:
        raise InputError(f"no official encoder is called {name!r}; known: {', '.join(OFFICIAL_ENCODERS)}")
    known = OFFICIAL_ENCODERS[name]
    revision = _pin(
        "revision", known.revision, revision, 40, f"the commit shown at https://huggingface.co/{known.repo}/commits"
    )
    if not (trust_first_download and sha256 is None and known.sha256 is None):
        sha256 = _pin(
            "sha256", known.sha256, sha256, 64, "the SHA-256 on the file's page, or --trust-first-download to accept it"
        )
    path = _download(known, revision, endpoint)
    found = sha256_file(path)
    if sha256 is not None and found != sha256:
        raise CheckpointError(
            f"{known.filename} at {revision[:12]} has SHA-256 {found}, expected {sha256}: not imported; "
            "the file was changed or is damaged, or the expected hash is of another revision"
        )
    provenance: dict[str, Any] = {
        "repository": f"https://huggingface.co/{known.repo}",
        "file": known.filename,
        "revision": revision,
        "hash_check": "equal to the expected SHA-256" if sha256 else "none: first download trusted",
    }
    return import_checkpoint(path, name, out_dir, licence=known.licence, provenance=provenance)


def _pin(what: str, recorded: str | None, given: str | None, digits: int, where: str) -> str:
    """Return the recorded or given pin; both must agree."""
    value = given if given is not None else recorded
    if value is None:
        raise InputError(f"no {what} is recorded for this encoder yet: give --{what} ({where})")
    value = value.lower()
    if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
        raise InputError(f"{what} is {value!r}; it must be {digits} hexadecimal digits: {where}")
    if recorded is not None and value != recorded:
        raise InputError(f"{what} is {value}, but {recorded} is recorded for this encoder; leave the option out")
    return value


def _download(known: HubFile, revision: str, endpoint: str | None) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise DependencyError("fetching encoders needs the huggingface_hub package: pip install 'specdb[hub]'") from error
    where = f"{known.repo}/{known.filename} at {revision[:12]}"
    try:
        return Path(huggingface_hub.hf_hub_download(known.repo, known.filename, revision=revision, endpoint=endpoint))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise CheckpointError(f"{where} does not exist on the hub (repository or revision unknown)") from error
    except EntryNotFoundError as error:
        # A file that is neither cached nor reachable is reported by a subclass of this error, too.
        if type(error).__name__ == "LocalEntryNotFoundError":
            raise _unreachable(where, error) from error
        raise CheckpointError(f"{where} does not exist on the hub: the repository has no such file") from error
    except Exception as error:  # the HTTP library behind the hub's client changes between versions
        raise _unreachable(where, error) from error


def _unreachable(where: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"{where} could not be fetched ({reason}); without a network, download the file elsewhere and run "
        "`specdb encoders import FILE.ckpt`. The shipped encoder works offline"
    )
