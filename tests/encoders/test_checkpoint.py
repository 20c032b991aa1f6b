"""Official checkpoints: converted exactly, and nothing in them is ever executed."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from specdb.encoders.card import load_model
from specdb.encoders.checkpoint import import_checkpoint, read_checkpoint
from specdb.encoders.config import LrsTransformerConfig, config_to_dict
from specdb.encoders.detect import detect_config
from specdb.encoders.unpickle import Global, Inert, read_pickle
from specdb.errors import CheckpointError, InputError
from tests.encoders.helpers import SMALL, small_model, spectra

HYPER = {
    "lrs_mt": {"num_heads": 2, "slice_overlap": 10, "mask_num_chunks": 6, "mask_chunk_width": 10, "dropout": 0.0},
    "xp_mt": {"num_heads": 2, "mask_chunk_width": 20},
}


def lightning(kind: str, **extra: object) -> dict:
    hyper = HYPER.get(kind, {"temperature": 15.5})
    state = small_model(kind).state_dict()
    return {"epoch": 3, "pytorch-lightning_version": "1.9.5", "state_dict": state, "hyper_parameters": {**hyper, **extra}}


def convert(path: Path, **options: object):
    return import_checkpoint(path, "it", path.parent / "out", **options)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["lrs_mt", "xp_mt", "xp_oae"])
def test_encoders_survive_conversion(tmp_path, kind, legacy):
    path = tmp_path / "x.ckpt"
    torch.save(lightning(kind), path, _use_new_zipfile_serialization=not legacy)
    card = convert(path, licence="MIT", provenance={"revision": "abc"})
    assert card.config == SMALL[kind] and card.licence == "MIT" and card.provenance["revision"] == "abc"
    assert card.provenance["file"] == "x.ckpt" and len(card.provenance["file_sha256"]) == 64
    assert card.provenance["ignored_objects"] == []
    model, _ = load_model(tmp_path / "out" / "it")
    want = small_model(kind).state_dict()
    assert all(torch.equal(tensor, want[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["base", "r", "p", "pr", "split", "split_lrs"])
def test_clip_variants_are_recognised(kind):
    shapes = {name: tuple(tensor.shape) for name, tensor in small_model(kind).state_dict().items()}
    got, want = config_to_dict(detect_config(shapes)), config_to_dict(SMALL[kind])
    for config in (got, want):  # the number of heads and dropout leave no trace in the weights of a CLIP model
        config["lamost_lrs"].pop("n_heads")
    assert got == want


def test_official_sizes_are_recognised():
    with torch.device("meta"):
        from specdb.encoders.models import build

        model = build(LrsTransformerConfig())
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert detect_config(shapes) == LrsTransformerConfig()


def test_plain_and_head_files(tmp_path):
    torch.save(small_model("xp_oae").state_dict(), tmp_path / "plain.pt")
    assert convert(tmp_path / "plain.pt").config == SMALL["xp_oae"]
    torch.save({"model_state_dict": small_model("mlp_head").state_dict(), "loss": 0.1}, tmp_path / "head.pt")
    card = convert(tmp_path / "head.pt")
    assert card.config.hidden == (16, 8) and card.config.n_outputs == 2 and card.preparation == {}


def test_half_precision_weights_become_float32(tmp_path):
    torch.save(small_model("xp_oae").half().state_dict(), tmp_path / "h.pt")
    weights, _, _ = read_checkpoint(tmp_path / "h.pt")
    assert {w.dtype for w in weights.values()} == {torch.float32}


def test_parameters_views_and_shared_storages(tmp_path):
    base = torch.arange(24.0)
    state = {"whole": base, "part": base[5:11], "turned": base.view(4, 6).T, "parameter": torch.nn.Parameter(base[:2])}
    state["empty"], state["scalar"] = torch.empty(0, 3), torch.tensor(7)
    for legacy in (False, True):
        torch.save(state, tmp_path / "s.pt", _use_new_zipfile_serialization=not legacy)
        weights, _, _ = read_checkpoint(tmp_path / "s.pt")
        assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())
        assert len({w.untyped_storage().data_ptr() for n, w in weights.items() if n != "empty"}) == 5


@pytest.fixture
def vanished():
    """A module with classes that exist while a checkpoint is written and are gone when it is read."""
    module = types.ModuleType("vanished_package")

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 3)
            self.activation = torch.nn.GELU()

    class WithState:
        def __reduce__(self):
            return (Pair, (1, 2), {"a": 1}, iter([1, 2]), iter([("k", 3)]))

    class Pair(list):
        def __setitem__(self, key, value): ...

        def __init__(self, *args): ...

    for cls in (Encoder, WithState, Pair):
        cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
        setattr(module, cls.__name__, cls)
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


def test_objects_of_vanished_classes(tmp_path, vanished):
    objects = {"gaia_xp_encoder": vanished.Encoder(), "deep": [{"x": (vanished.WithState(),)}], "scale": np.float64(2.0)}
    for protocol in (2, 4):
        torch.save(lightning("split_lrs", **objects), tmp_path / f"{protocol}.ckpt", pickle_protocol=protocol)
    del sys.modules["vanished_package"]
    for protocol in (2, 4):
        card = convert(tmp_path / f"{protocol}.ckpt")
        assert {"vanished_package.Encoder", "vanished_package.Pair"} <= set(card.provenance["ignored_objects"])
        assert "vanished_package" not in sys.modules


class Payload:
    """Pickles as a call of anything."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


class Lookalike:
    """Pickles as a tensor whose storage argument is a payload."""

    def __init__(self, payload: Payload) -> None:
        self.payload = payload

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (self.payload, 0, (1,), (1,), False, collections.OrderedDict())


def payloads(target: Path) -> dict[str, object]:
    command = f"touch {target}"
    python = f"open({str(target)!r}, 'w').close()"
    import builtins
    import functools
    import operator
    import subprocess

    return {
        "system": Payload(os.system, command),
        "eval": Payload(eval, python),
        "exec": Payload(exec, python),
        "popen": Payload(subprocess.Popen, ["touch", str(target)]),
        "open": Payload(open, str(target), "w"),
        "import": Payload(builtins.__import__, "antigravity"),
        "getattr": Payload(getattr, target, "touch"),
        "bound_method": Payload(target.touch),
        "methodcaller": Payload(operator.methodcaller("touch"), target),
        "partial": Payload(functools.partial(os.system, command)),
        "torch_load": Payload(torch.load, str(target)),
        "tensor": Lookalike(Payload(os.system, command)),
        "ordered_dict": Payload(collections.OrderedDict, [("a", Payload(os.system, command))]),
        "map": Payload(list, [Payload(map, os.system, [command])]),
        "nested": [{"a": (Payload(os.system, command), {"b": Payload(eval, python)})}],
    }


@pytest.mark.parametrize("name", sorted(payloads(Path("x"))))
@pytest.mark.parametrize("legacy", [False, True])
def test_payload_is_not_executed(tmp_path, name, legacy):
    target = tmp_path / "executed"
    content = lightning("xp_oae", evil=payloads(target)[name])
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=not legacy)
    assert convert(tmp_path / "m.ckpt").config == SMALL["xp_oae"]
    assert not target.exists()


@pytest.mark.parametrize("place", ["weight", "state_dict", "top"])
def test_payload_in_place_of_weights(tmp_path, place):
    target = tmp_path / "executed"
    content = lightning("xp_oae")
    if place == "weight":
        content["state_dict"]["input_proj.bias"] = Lookalike(payloads(target)["system"])
    elif place == "state_dict":
        content["state_dict"] = payloads(target)["system"]
    torch.save(payloads(target)["system"] if place == "top" else content, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match=r"refers to a storage in a way|holds no dictionary of weights"):
        convert(tmp_path / "m.ckpt")
    assert not target.exists()


def hand_made(opcodes: bytes) -> object:
    return read_pickle(io.BytesIO(opcodes), "hand made")


def test_gadgets_by_hand(tmp_path):
    target = tmp_path / "executed"
    touch = f"touch {target}".encode()
    for opcodes in (
        b"cposix\nsystem\n(S'" + touch + b"'\ntR.",  # GLOBAL, REDUCE
        b"(S'" + touch + b"'\niposix\nsystem\n.",  # INST
        b"(cposix\nsystem\nS'" + touch + b"'\no.",  # OBJ
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + bytes([len(touch)]) + touch + b"\x85R.",  # STACK_GLOBAL
        b"\x80\x02cposix\nsystem\n(S'" + touch + b"'\nt\x81.",  # NEWOBJ
        b"\x80\x04cposix\nsystem\n)}\x92.",  # NEWOBJ_EX
    ):
        assert isinstance(hand_made(opcodes), Inert)
        assert not target.exists()
    # BUILD must not set attributes on what was fetched: here the defaults of a torch function.
    before = torch._utils._rebuild_tensor_v2.__defaults__
    got = hand_made(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.")
    assert got == Global("torch._utils", "_rebuild_tensor_v2")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


@pytest.mark.parametrize(
    "opcodes",
    [b"", b"garbage", b".", b"K", b"(.", b"\x80\x02]K\x01K\x02s.", b"K\x01K\x02a.", b"h\x07.", b"\x82\x01.", b"0."],
)
def test_broken_pickles(opcodes):
    with pytest.raises(CheckpointError, match="hand made is not a complete pickle"):
        hand_made(opcodes) if opcodes != b"(." else hand_made(b"(u.")


def test_unpickling_plain_data():
    for protocol in range(6):
        value = {"a": [1, -2, 2**70, 1.5, None, True], "b": ("x", b"y", ()), 3: {"z": {4, 5}, "f": frozenset([6])}}
        if protocol < 4:
            value[3] = {}
        if protocol < 3:
            value["b"] = ("x", ())
        shared: list = [value, value]
        got = hand_made(pickle.dumps(shared, protocol))
        assert got == shared and got[0] is got[1]
    assert hand_made(pickle.dumps(bytearray(b"q"), 5)) == b"q"


def test_hash_bomb_is_harmless():
    bomb: tuple = ()
    for _ in range(200):
        bomb = (bomb, bomb)
    opcodes = io.BytesIO()
    pickle.Pickler(opcodes, 2).dump(bomb)
    got = hand_made(b"\x80\x02}" + opcodes.getvalue()[2:-1] + b"K\x01s.")
    assert len(got) == 1


def zip_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.fixture
def good(tmp_path) -> Path:
    torch.save({"a": torch.arange(12.0)}, tmp_path / "good.pt")
    return tmp_path / "good.pt"


def test_every_truncation_is_an_error(tmp_path):
    for legacy in (False, True):
        whole = tmp_path / "whole.pt"
        torch.save({"a": torch.arange(3.0)}, whole, _use_new_zipfile_serialization=not legacy)
        data = whole.read_bytes()
        for size in range(0, len(data), 1 if legacy else 7):
            (tmp_path / "cut.pt").write_bytes(data[:size])
            with pytest.raises(CheckpointError, match=r"cut\.pt"):
                read_checkpoint(tmp_path / "cut.pt")


def test_damaged_archives(tmp_path, good):
    members = zip_members(good)
    top = next(name for name in members if name.endswith("data.pkl")).removesuffix("data.pkl")

    def attempt(changes: dict[str, bytes | None], **options: int) -> None:
        write_zip(tmp_path / "bad.pt", {k: v for k, v in (members | changes).items() if v is not None}, **options)
        read_checkpoint(tmp_path / "bad.pt")

    for changes, message in [
        ({f"{top}data/0": None}, "data/0 is missing"),
        ({f"{top}data/0": b"\0" * 8}, "has 8 bytes instead of 48"),
        ({f"{top}data.pkl": None}, "0 members called data.pkl"),
        ({"other/data.pkl": b"N."}, "2 members called data.pkl"),
        ({f"{top}byteorder": b"big"}, "big-endian machine"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            attempt(changes)
    with pytest.raises(CheckpointError, match="is compressed"):
        attempt({f"{top}data/0": b"\0" * 10**6}, compression=zipfile.ZIP_DEFLATED)
    data = bytearray(good.read_bytes())
    data[data.index(np.arange(12, dtype="<f4").tobytes())] ^= 1
    (tmp_path / "flip.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"cannot be read .*CRC"):
        read_checkpoint(tmp_path / "flip.pt")


def rebuild(shape: tuple, stride: tuple, offset: int = 0, count: int = 12, key: str = "0", storage: str = "FloatStorage"):
    """Opcodes of a dictionary with one tensor of arbitrary claims."""

    class Storage:
        pass

    class Claim:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, stride, False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                return ("storage", getattr(torch, storage), key, "cpu", count)
            return None

    out = io.BytesIO()
    Pickler(out, 2).dump({"a": Claim()})
    return out.getvalue()


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"shape": (10**9, 10**9), "stride": (10**9, 1)}, "reaches beyond its storage of 12 values"),
        ({"shape": (10**12,), "stride": (0,)}, "reaches beyond its storage of 12 values"),
        ({"shape": (13,), "stride": (1,)}, "reaches beyond"),
        ({"shape": (2,), "stride": (1,), "offset": 11}, "reaches beyond"),
        ({"shape": (2,), "stride": (-1,), "offset": 5}, "has shape .* and stride"),
        ({"shape": (2,), "stride": (1, 1)}, "has shape .* and stride"),
        ({"shape": (2.0,), "stride": (1,)}, "has shape .* and stride"),
        ({"shape": (2,), "stride": (1,), "offset": 2**70}, "has shape .* and stride"),
        ({"shape": (2,), "stride": (1,), "count": 10**13}, "has 48 bytes instead of 40000000000000"),
        ({"shape": (2,), "stride": (1,), "count": -1}, "refers to a storage in a way"),
        ({"shape": (2,), "stride": (1,), "key": "../../etc/passwd"}, "is missing"),
        ({"shape": (2,), "stride": (1,), "storage": "ComplexFloatStorage"}, "refers to a storage in a way"),
    ],
)
def test_claims_of_tensors(tmp_path, good, claim, message):
    members = zip_members(good)
    name = next(name for name in members if name.endswith("data.pkl"))
    write_zip(tmp_path / "claim.pt", members | {name: rebuild(**claim)})
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "claim.pt")


def test_legacy_file_with_a_giant_storage(tmp_path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "l.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "l.pt").read_bytes()
    tail = struct.pack("<q", 3) + np.arange(3, dtype="<f4").tobytes()
    assert data.endswith(tail)
    for count in (2**60, -5, 4):
        (tmp_path / "l.pt").write_bytes(data[: -len(tail)] + struct.pack("<q", count) + tail[8:])
        with pytest.raises(CheckpointError, match=r"storage 0 is missing|storage .* of another size"):
            read_checkpoint(tmp_path / "l.pt")


def test_other_files(tmp_path):
    for data, message in [
        (b"", "not a complete pickle"),
        (b"hello world", "not a complete pickle"),
        (b"K\x01.", "older layout"),
    ]:
        (tmp_path / "f.ckpt").write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / "f.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        convert(tmp_path / "missing.ckpt")
    torch.save(small_model("xp_oae"), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match="whole pickled objects are not read"):
        convert(tmp_path / "module.pt")
    torch.save({"state_dict": {"a": torch.ones(1), "note": "text"}}, tmp_path / "mixed.pt")
    with pytest.raises(CheckpointError, match=r"1 entries among the weights are no tensors .'note'"):
        convert(tmp_path / "mixed.pt")


def test_weights_that_do_not_fit(tmp_path):
    torch.save({"conv.weight": torch.ones(3, 3)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"no model of the SpecCLIP family .first names: conv.weight"):
        convert(tmp_path / "x.pt")
    state = small_model("lrs_mt").state_dict()
    state["extra"] = state.pop("head.bias")
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"head.bias is missing; extra is not part of the model"):
        convert(tmp_path / "x.pt")
    torch.save({"bottleneck_down.weight": torch.ones(2, 3)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"not complete: no usable 'input_proj\.weight'"):
        convert(tmp_path / "x.pt")


def test_names(tmp_path, monkeypatch):
    torch.save(small_model("xp_oae").state_dict(), tmp_path / "x.pt")
    for name in ("", "../up", "a/b", ".hidden", "a b"):
        with pytest.raises(InputError, match="cannot be the name of an encoder"):
            import_checkpoint(tmp_path / "x.pt", name, tmp_path)
    monkeypatch.setenv("SPECDB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("specdb.encoders.checkpoint.shipped_folder", lambda: tmp_path / "shipped")
    (tmp_path / "shipped" / "taken").mkdir(parents=True)
    with pytest.raises(InputError, match="'taken' ships with specdb"):
        import_checkpoint(tmp_path / "x.pt", "taken")
    import_checkpoint(tmp_path / "x.pt", "fine")
    assert json.loads((tmp_path / "home" / "encoders" / "fine" / "card.json").read_text())["name"] == "fine"


def test_converted_model_computes(tmp_path):
    torch.save(lightning("lrs_mt"), tmp_path / "x.ckpt")
    convert(tmp_path / "x.ckpt")
    model, _ = load_model(tmp_path / "out" / "it")
    flux = spectra(2, 1462)
    want = small_model("lrs_mt").eval().embed(flux, "lamost_lrs")["shared"]
    assert torch.equal(model.embed(flux, "lamost_lrs")["shared"], want)
