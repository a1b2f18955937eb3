"""The file format of a mask: small, self-describing, checksummed, read without executing anything.

    magic    8 bytes   b"COPSMASK"
    version  4 bytes   little-endian unsigned
    length   4 bytes   of the header, little-endian unsigned
    header             JSON, deflated: {"settings": {...}, "layers": [{name, shape, code, low, ones, bytes}, ...]}
    layers             one block of bits per layer, in the header's order
    sha256   32 bytes  of everything before

A layer is coded in whichever way is smaller: as plain bits, or, since a pruned layer is mostly zeros, as the sorted
positions of its ones (or of its zeros) in Elias-Fano form: the `low` lowest bits of each position as they are, the rest
in unary. That takes about 2 + log2(1 / density) bits per kept weight, within 1.2x of the entropy.
"""

import ctypes
import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAGIC = b"COPSMASK"
VERSION = 1
PREFIX = struct.Struct("<8sII")
DIGEST = 32
LARGEST_HEADER = 1 << 26  # a hostile header must not inflate to gigabytes; layers take a byte per weight they name


class MaskFileError(ValueError):
    """A file that is no mask file, is damaged, or is of a later version."""


def encode(kept: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bytes:
    """Bytes of a mask file.

    Raises:
        ValueError: `settings` holds something that JSON cannot.
    """
    layers, blocks = [], []
    for name, mask in kept.items():
        entry, block = _encode_layer(mask.detach().cpu().flatten())
        layers.append({"name": name, "shape": list(mask.shape), **entry, "bytes": len(block)})
        blocks.append(block)
    try:
        text = json.dumps({"settings": dict(settings), "layers": layers}, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings of a mask must be plain JSON values: {error}") from error
    header = zlib.compress(text.encode(), 9)
    body = PREFIX.pack(MAGIC, VERSION, len(header)) + header + b"".join(blocks)
    return body + hashlib.sha256(body).digest()


def decode(data: bytes, source: str = "the data") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Kept weights by parameter name, and settings, of a mask file's bytes; `source` names them in errors.

    Raises:
        MaskFileError: see the class.
    """
    if len(data) < PREFIX.size + DIGEST or not data.startswith(MAGIC):
        raise MaskFileError(f"{source} is not a COPS mask file (it does not start with {MAGIC.decode()!r})")
    _, version, length = PREFIX.unpack_from(data)
    if version != VERSION:
        raise MaskFileError(f"{source} has mask file version {version}, this reader knows {VERSION}: update cops")
    body, digest = data[:-DIGEST], data[-DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise MaskFileError(f"{source} is damaged (its checksum does not match): fetch or write it again")
    try:
        header = json.loads(zlib.decompressobj().decompress(body[PREFIX.size : PREFIX.size + length], LARGEST_HEADER))
        at, kept = PREFIX.size + length, dict[str, Tensor]()
        _check_header(header)
        for layer in header["layers"]:
            block = body[at : at + layer["bytes"]]
            kept[layer["name"]] = _decode_layer(block, layer, prod(layer["shape"])).reshape(layer["shape"])
            at += layer["bytes"]
        if at != len(body):
            raise ValueError(f"{len(body) - at} bytes follow the last layer")
        return kept, header["settings"]
    except (KeyError, TypeError, ValueError, RuntimeError, RecursionError, zlib.error) as error:
        raise MaskFileError(f"{source} is not a valid mask file: {error}") from error


def write(path: Path, kept: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Write a mask file; `path` is replaced whole or not at all."""
    data = encode(kept, settings)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a mask file; errors as in `decode`."""
    return decode(path.read_bytes(), f"'{path}'")


def _check_header(header: Any) -> None:
    """Refuse what no writer writes: the rest of the reader may then trust the header's types."""
    if not isinstance(header, dict) or not isinstance(header["settings"], dict) or not header["layers"]:
        raise ValueError("its header has no settings or no layers")
    names = [layer["name"] for layer in header["layers"]]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"its layers are called {names}")
    for layer in header["layers"]:
        if not all(type(size) is int and size > 0 for size in layer["shape"]):
            raise ValueError(f"layer '{layer['name']}' has shape {layer['shape']}")
        if not all(type(layer[number]) is int and layer[number] >= 0 for number in ("low", "ones", "bytes")):
            raise ValueError(f"layer '{layer['name']}' counts in something else than whole numbers")


def _form(size: int, ones: int) -> tuple[str, int, int]:
    """The smallest form of a layer of `size` weights, `ones` of them kept: its code, low bits and total bits."""
    best = ("bits", 0, size)
    for code, count in (("ones", ones), ("zeros", size - ones)):
        low = max(0, (size // max(count, 1)).bit_length() - 1)
        best = min(best, (code, low, low * count + (size >> low) + count + 1), key=lambda form: form[2])
    return best


def _encode_layer(mask: Tensor) -> tuple[dict[str, Any], bytes]:
    """`mask` is bool `(d,)`; the layer's entry in the header and its bits."""
    ones = int(mask.sum())
    code, low, _ = _form(len(mask), ones)
    entry = {"code": code, "low": low, "ones": ones}
    if code == "bits":
        return entry, _pack(mask)
    positions = (mask if code == "ones" else ~mask).nonzero().flatten()
    unary = torch.zeros((len(mask) >> low) + len(positions) + 1, dtype=torch.bool)
    unary[(positions >> low) + torch.arange(len(positions))] = True
    lows = (positions[:, None] >> torch.arange(low)) & 1
    return entry, _pack(torch.cat([lows.flatten().bool(), unary]))


def _decode_layer(block: bytes, entry: Mapping[str, Any], size: int) -> Tensor:
    """Bool `(size,)`; the inverse of `_encode_layer`. Only the form that a writer chooses is read."""
    code, low, length = _form(size, entry["ones"])
    stated = (entry["code"], entry["low"], entry["bytes"])
    if stated != (code, low, -(-length // 8)) or len(block) != entry["bytes"]:
        raise ValueError(f"layer '{entry['name']}' is not in the form of {entry['ones']} of {size} weights")
    bits = _unpack(block)
    if code == "bits":
        mask = bits[:size]
    else:
        count = entry["ones"] if code == "ones" else size - entry["ones"]
        lows = bits[: low * count].reshape(count, low).long()
        high = bits[low * count :].nonzero().flatten() - torch.arange(count)
        positions = (high << low) + (lows << torch.arange(low)).sum(1)
        mask = torch.zeros(size, dtype=torch.bool)
        mask[positions] = True
        mask = mask if code == "ones" else ~mask
    if int(mask.sum()) != entry["ones"]:
        raise ValueError(f"layer '{entry['name']}' does not hold the {entry['ones']} of {size} weights it names")
    return mask


def _pack(bits: Tensor) -> bytes:
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).reshape(-1, 8)
    packed = (padded << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
    return ctypes.string_at(packed.data_ptr(), len(packed))


def _unpack(block: bytes) -> Tensor:
    if not block:
        return torch.zeros(0, dtype=torch.bool)
    packed = torch.frombuffer(bytearray(block), dtype=torch.uint8)
    return ((packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).bool().flatten()
