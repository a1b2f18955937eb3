import hashlib
import json
import math
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cops import Mask, MaskFileError, maskfile
from cops.maskfile import MAGIC, PREFIX, VERSION, decode, encode


def drawn(shape: tuple[int, ...], density: float, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def entropy(kept: dict[str, Tensor]) -> float:
    """Bits that an ideal coder needs, knowing the density of each layer."""
    bits = 0.0
    for mask in kept.values():
        p = int(mask.sum()) / mask.numel()
        bits += mask.numel() * sum(-q * math.log2(q) for q in (p, 1 - p) if q > 0)
    return bits


def packed(header: Any, blocks: bytes = b"", version: int = VERSION) -> bytes:
    """A file with a valid checksum, whatever its header says."""
    text = zlib.compress(header if isinstance(header, bytes) else json.dumps(header).encode())
    body = PREFIX.pack(MAGIC, version, len(text)) + text + blocks
    return body + hashlib.sha256(body).digest()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
layer = st.tuples(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0]),
    st.integers(0, 1000),
).map(lambda draw: drawn(*draw))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), layer, min_size=1, max_size=4), st.dictionaries(st.text(), json_values, max_size=3))
def test_what_is_written_is_read_back(kept: dict[str, Tensor], settings_: dict[str, Any]) -> None:
    back, also = decode(encode(kept, settings_))
    assert list(back) == list(kept)
    assert all(torch.equal(back[name], kept[name]) for name in kept)
    assert also == settings_


def test_a_mask_survives_a_file(tmp_path: Path) -> None:
    mask = Mask({"a.weight": drawn((30, 40), 0.05, 0)}, {"target": "snip", "alpha": [0.5]})
    path = tmp_path / "mask.cops"
    mask.save(str(path))
    mask.save(path)  # replaces the first
    back = Mask.load(str(path))
    assert torch.equal(back.kept["a.weight"], mask.kept["a.weight"])
    assert back.settings == mask.settings
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.98, 0.99, 0.995])
def test_size_is_within_a_fifth_of_the_entropy(sparsity: float) -> None:
    shapes = [(64, 27), (64, 64, 3, 3), (256, 128, 3, 3), (512, 256, 3, 3), (10, 512)]
    for spread in (1.0, 3.0):  # equal densities, and densities that differ between layers as they do in practice
        factors = [spread ** (1 - k / 2) for k in range(5)]
        kept = {
            f"features.{k}.weight": drawn(shape, min(1.0, (1 - sparsity) * factor), k)
            for k, (shape, factor) in enumerate(zip(shapes, factors, strict=True))
        }
        assert 8 * len(encode(kept, {"target": "snip", "sparsity": sparsity})) <= 1.2 * entropy(kept)


def test_every_truncated_or_flipped_byte_is_refused() -> None:
    data = encode({"w": drawn((8, 9), 0.2, 0)}, {"a": 1})
    for end in range(len(data)):
        with pytest.raises(MaskFileError):
            decode(data[:end])
    for at in range(len(data)):
        for flip in (1, 128, 255):
            damaged = bytearray(data)
            damaged[at] ^= flip
            with pytest.raises(MaskFileError):
                decode(bytes(damaged))
    with pytest.raises(MaskFileError, match="damaged"):
        decode(data + b"\0")


def test_files_of_others_are_refused_and_never_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("a pickle was executed",)

    foreign = [b"", b"COPSMASK", pickle.dumps(Bomb()), b"PK\3\4" + bytes(100), b"{}" * 50]
    for number, content in enumerate(foreign):
        path = tmp_path / f"{number}"
        path.write_bytes(content)
        with pytest.raises(MaskFileError, match="is not a COPS mask file"):
            Mask.load(path)
    (tmp_path / "bomb").write_bytes(packed(pickle.dumps(Bomb())))
    with pytest.raises(MaskFileError, match="not a valid mask file"):
        Mask.load(tmp_path / "bomb")
    with pytest.raises(FileNotFoundError):
        Mask.load(tmp_path / "none")


def test_files_of_later_versions_say_so() -> None:
    with pytest.raises(MaskFileError, match="version 2, this reader knows 1: update cops"):
        decode(packed({"layers": [], "settings": {}}, version=2))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [10**15]},
        {"shape": [-4, -2]},
        {"shape": ["8"]},
        {"shape": 8},
        {"shape": [7]},
        {"code": "bits"},
        {"code": "zeros"},
        {"code": "pickle"},
        {"low": 10**15},
        {"low": -1},
        {"low": None},
        {"ones": 10**15},
        {"ones": -1},
        {"ones": 3},
        {"bytes": 10**15},
        {"bytes": -1},
        {"bytes": "1"},
        {"ones": 2.0},
        {"ones": True},
        {"name": None},
        {"bytes": 0},
    ],
)
def test_hostile_headers_are_refused(change: dict[str, Any]) -> None:
    mask = torch.arange(64) % 40 == 5
    entry, block = maskfile._encode_layer(mask)
    honest = {"name": "w", "shape": [2, 32], **entry, "bytes": len(block)}
    good, _ = decode(packed({"layers": [honest], "settings": {}}, block))
    assert torch.equal(good["w"], mask.view(2, 32))
    with pytest.raises(MaskFileError, match="not a valid mask file"):
        decode(packed({"layers": [honest | change], "settings": {}}, block))


def test_what_no_writer_writes_is_refused() -> None:
    mask = torch.arange(64) % 40 == 5
    entry, block = maskfile._encode_layer(mask)
    honest = {"name": "w", "shape": [64], **entry, "bytes": len(block)}
    for header, blocks in (
        ({"layers": [honest], "settings": {}}, block + b"more"),
        ({"layers": [honest, honest], "settings": {}}, block * 2),
        ({"layers": [honest], "settings": ["ab"]}, block),
    ):
        with pytest.raises(MaskFileError, match="not a valid mask file"):
            decode(packed(header, blocks))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"{}",
        b'{"layers": 3, "settings": {}}',
        b'{"layers": []}',
        b'{"layers": [], "settings": {}}',
    ],
)
def test_headers_that_are_no_header_are_refused(header: bytes) -> None:
    with pytest.raises(MaskFileError, match="not a valid mask file"):
        decode(packed(header))


def test_a_deflate_bomb_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maskfile, "LARGEST_HEADER", 1000)
    with pytest.raises(MaskFileError, match="not a valid mask file"):
        decode(packed(b'{"layers": [], "settings": {"a": "' + b"a" * 10_000 + b'"}}'))


def test_settings_must_be_json(tmp_path: Path) -> None:
    for bad in ({"a": object()}, {"a": float("nan")}, {"a": {1, 2}}):
        with pytest.raises(ValueError, match="must be plain JSON values"):
            Mask({"w": drawn((4,), 0.5, 0)}, bad).save(tmp_path / "mask")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mask"
    Mask({"w": drawn((4,), 0.5, 0)}).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Mask({"w": drawn((5,), 0.5, 1)}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
