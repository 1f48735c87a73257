"""Reads what ``torch.save`` writes: an archive of records, or, before PyTorch 1.6, pickles with the values behind them.

Sizes are compared with the file before memory is taken, and every record of an archive is compared with its checksum.
"""
import errno
import hashlib
import io
import mmap
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from mmparax.weights.pickle_values import Budget, Refusal, StorageType, StoredValues, expect
from mmparax.weights.seal import RECORD, combine
from mmparax.weights.unpickling import unpickle

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950a86a20f9469cfc6c, 1001
ARCHIVE_MAGIC = b'PK\x03\x04'
VIEWS = 16  # all tensors of a file are at most so many times as large as the file
STEP = 1 << 24  # bytes that are read at a time

Place = Callable[[Tensor, str], Tensor]  # moves (bytes, ) uint8 from the CPU, given the device that the file names


def read_torch(file: str | Path | IO[bytes], map_location: Any = 'cpu') -> Any:
    """Read a file of ``torch.save``; nothing in it can run code, and no memory is taken that the file does not fill.

    Args:
        file: its path, or an open file that can be sought.
        map_location: where tensors go, as in ``torch.load``: a device, a dict from the file's device to another, a function,
            or None for the file's own.

    Raises:
        UnpicklingError: if it holds anything but plain data, dense tensors and NumPy arrays; as this and other errors of the
            parsers if it is damaged.
        OSError: if it cannot be read.
    """
    if isinstance(file, (str, Path)):
        with open(file, 'rb') as opened:
            return read_torch(opened, map_location)
    place = _make_place(map_location)
    start = file.read(len(ARCHIVE_MAGIC))
    file.seek(0)
    try:
        return _read_archive(file, place) if start == ARCHIVE_MAGIC else _read_legacy(file, place)
    except OSError as error:
        if error.errno != errno.EINVAL:  # that one comes of positions in the archive that cannot be
            raise
        raise Refusal(f'{type(error).__name__}: {error}') from error


def is_sealed(path: str | Path) -> bool:
    """Whether a file that was read by :func:`read_torch` had a digest, and so was compared with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.partition('/')[2] == RECORD for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


# ---- archives ----


def _read_archive(file: IO[bytes], place: Place) -> Any:
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        records = _check_records(archive, size)
        if records.get('byteorder') is not None:
            order = archive.read(records['byteorder']).decode('ascii')
            if order != sys.byteorder:
                raise Refusal(f'values in the byte order {order!r}, and this machine has {sys.byteorder!r}')
        loaded: dict[str, Tensor] = {}
        digests: dict[str, bytes] = {}
        budget = Budget(VIEWS * size)
        is_sealed = RECORD in records

        def load(identifier: Any) -> StoredValues:
            dtype, key, location, count, _ = _parse_identifier(identifier)
            if key not in loaded:
                record = records.get(f'data/{key}')
                if record is None or record.file_size != count * dtype.itemsize:
                    raise Refusal(f'{count} values of {dtype} that are not in the file')
                values = _read_record(archive, record)
                if is_sealed:
                    digests[f'data/{key}'] = hashlib.sha256(values.numpy()).digest()
                loaded[key] = place(values, location)
            return StoredValues(loaded[key], dtype, budget)

        if 'data.pkl' not in records:
            raise Refusal('an archive that torch.save did not write')
        content = unpickle(io.BytesIO(archive.read(records['data.pkl'])), load)
        if is_sealed:
            expected = archive.read(records.pop(RECORD))
            rest = {
                name: hashlib.sha256(archive.read(record)).digest() for name, record in records.items() if name not in digests
            }
            if combine((digests | rest).items()).encode() != expected:
                raise Refusal('it is not what was written: the digest differs')
        return content


def _check_records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The records of an archive by their name below its one folder.

    Raises:
        Refusal: for records that are compressed, stand twice, or are together larger than the file.
    """
    records: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for record in archive.infolist():
        folder, _, name = record.filename.partition('/')
        folders.add(folder)
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size or record.flag_bits & 1:
            raise Refusal(f'the record {name!r} is compressed or encrypted, which torch.save never does')
        if name in records:
            raise Refusal(f'the record {name!r} stands twice')
        records[name] = record
    if len(folders) != 1 or sum(record.file_size for record in records.values()) > size:
        raise Refusal('records that are together larger than the file, or in several folders')
    return records


def _read_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> Tensor:
    """(bytes, ) uint8 of a record; its checksum is compared."""
    data = torch.empty(record.file_size, dtype=torch.uint8)
    buffer, position = memoryview(data.numpy()), 0
    with archive.open(record) as source:
        while position < len(buffer):
            part = source.read(min(STEP, len(buffer) - position))
            if not part:
                raise Refusal(f'the record {record.filename!r} is truncated')
            buffer[position:position + len(part)] = part
            position += len(part)
        source.read(1)  # the end is where the checksum is compared
    return data


# ---- files from before PyTorch 1.6 ----


def _read_legacy(file: IO[bytes], place: Place) -> Any:
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, io.UnsupportedOperation):  # not a file of the system, or an empty one
        stream: Any = io.BytesIO(file.read())
        return _read_pickles(stream, len(stream.getbuffer()), place)
    with mapped:
        return _read_pickles(mapped, len(mapped), place)


def _read_pickles(stream: Any, size: int, place: Place) -> Any:
    if _unpickle_plain(stream) != LEGACY_MAGIC or _unpickle_plain(stream) != LEGACY_PROTOCOL:
        raise Refusal('a pickle that torch.save did not write')
    if not expect(_unpickle_plain(stream), dict).get('little_endian') or sys.byteorder != 'little':
        raise Refusal('values in the other byte order')
    memories: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    sizes: dict[str, int] = {}
    budget = Budget(VIEWS * size)
    results: list[tuple[StoredValues, str]] = []

    def load(identifier: Any) -> StoredValues:
        dtype, key, location, count, view = _parse_identifier(identifier)
        if view is not None:
            raise Refusal('a memory that is a view of another')
        if key not in memories:
            if sum(sizes.values()) + count * dtype.itemsize > size:
                raise Refusal(f'{count} values of {dtype} that are not in the file')
            sizes[key], places[key] = count * dtype.itemsize, location
            memories[key] = torch.zeros(sizes[key], dtype=torch.uint8)
        elif sizes[key] != count * dtype.itemsize:
            raise Refusal('a memory of two sizes')
        results.append((StoredValues(memories[key], dtype, budget), key))
        return results[-1][0]

    content = unpickle(stream, load)
    keys = expect(_unpickle_plain(stream), list)
    if sorted(map(str, keys)) != sorted(memories):
        raise Refusal('other memories than its tensors have')
    itemsizes = {key: stored.dtype.itemsize for stored, key in results}
    for key in keys:
        count = int.from_bytes(stream.read(8), 'little', signed=True)
        part = stream.read(sizes[key])
        if count * itemsizes[key] != sizes[key] or len(part) != sizes[key]:
            raise Refusal('it is truncated')
        memories[key].numpy()[:] = memoryview(part)
    return _move(content, memories, places, place)


def _unpickle_plain(stream: Any) -> Any:
    """One of the small pickles around the content, which holds no tensor."""

    def refuse(identifier: Any) -> StoredValues:
        raise Refusal('a tensor where none belongs')

    return unpickle(stream, refuse)


def _move(content: Any, memories: Mapping[str, Tensor], places: Mapping[str, str], place: Place) -> Any:
    """The content with its tensors where they belong: their values come last in such a file, so they are moved at the end."""
    moved = {memory.data_ptr(): place(memory, places[key]) for key, memory in memories.items() if len(memory)}
    if all(after.device.type == 'cpu' for after in moved.values()):
        return content

    def move(value: Any) -> Any:
        if isinstance(value, Tensor) and value.numel():
            memory = moved[value.untyped_storage().data_ptr()].view(value.dtype)
            there = memory.as_strided(value.shape, value.stride(), value.storage_offset())
            return torch.nn.Parameter(there, value.requires_grad) if isinstance(value, torch.nn.Parameter) else there
        if isinstance(value, dict):
            for name in value:
                value[name] = move(value[name])
        elif isinstance(value, list):
            value[:] = map(move, value)
        elif type(value) is tuple:
            return tuple(map(move, value))
        return value

    return move(content)


# ---- parts ----


def _parse_identifier(identifier: Any) -> tuple[torch.dtype, str, str, int, Any]:
    """(dtype, key, device, number of values, view) of the memory that a pickle asks for."""
    kind, storage, key, location, count, *view = expect(identifier, tuple)
    if kind != 'storage' or not isinstance(storage, StorageType) or type(count) is not int or count < 0 or len(view) > 1:
        raise Refusal('a reference to something else than values')
    return storage.dtype, expect(key, str), expect(location, str), count, view[0] if view else None


def _make_place(map_location: Any) -> Place:
    """What moves memory to where ``torch.load`` would, given its argument of this name."""

    def place(data: Tensor, location: str) -> Tensor:
        target = map_location
        if callable(target) and not isinstance(target, torch.device):
            answer = target(data.untyped_storage(), location)
            return data if answer is None else torch.empty(0, dtype=torch.uint8, device=answer.device).set_(answer)
        if isinstance(target, Mapping):
            target = target.get(location, location)
        return data.to(location if target is None else target)

    return place
