"""The digest of a file that mmparax writes: what is not as it was written is not loaded.

In a file of ``torch.save`` it is one more record of the archive, which PyTorch itself does not mind. A safetensors file has it in
its metadata. It tells damage, not forgery: whoever writes another file can write its digest, too.
"""
import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.fileio import register_backend

from mmparax.errors import InputError
from mmparax.utils.atomic_backend import AtomicBackend
from mmparax.weights.digest import compute_digest

SEALED = 'mmparax.sealed'  # name of the backend in ``backend_args``
RECORD = 'mmparax/sha256'  # below the one folder of the archive
KEY = 'mmparax_sha256'  # among the metadata of a safetensors file
ADAPTER_KEY = 'mmparax_adapter'  # there too: the description of an adapter file, which has digests of its own
UNSEALED = 'has no digest: it was not written by mmparax, or by an older one, and what it holds cannot be checked for damage'


def seal_archive(data: bytes) -> bytes:
    """Return a file of ``torch.save`` with the digest of all its records."""
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, 'a') as archive:
        records = archive.infolist()
        folder = records[0].filename.partition('/')[0]
        digest = combine((record.filename.partition('/')[2], hashlib.sha256(archive.read(record)).digest()) for record in records)
        archive.writestr(f'{folder}/{RECORD}', digest)
    return stream.getvalue()


def combine(digests: Iterable[tuple[str, bytes]]) -> str:
    """The digest of a file from the names and digests of its records, in any order."""
    total = hashlib.sha256()
    for name, digest in sorted(digests):
        total.update(f'{len(name)} {name} '.encode(errors='surrogatepass') + digest)
    return total.hexdigest()


def seal_metadata(tensors: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a safetensors file with the digest of tensors and texts."""
    return {**texts, KEY: _compute_safetensors_digest(tensors, texts)}


def check_metadata(tensors: Mapping[str, Any], texts: Mapping[str, str], source: str) -> bool:
    """Whether a safetensors file has a digest.

    Raises:
        InputError: if it is that of other tensors or texts.
    """
    if KEY not in texts:
        return False
    if texts[KEY] != _compute_safetensors_digest(tensors, {name: text for name, text in texts.items() if name != KEY}):
        raise InputError(f'the checkpoint {source!r} is damaged and was not loaded: it is not what was written (the digest '
                         'differs). Get it again.')
    return True


def _compute_safetensors_digest(tensors: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    parts = [(f'text {name}', hashlib.sha256(text.encode(errors='surrogatepass')).digest()) for name, text in texts.items()]
    return combine([*parts, ('tensors', bytes.fromhex(compute_digest(tensors.items())))])


@register_backend(SEALED, force=True)
class SealedBackend(AtomicBackend):
    """The storage of checkpoints: each is written whole and with its digest."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        super().put(seal_archive(obj), filepath)
