"""The format of an adapter file: safetensors whose metadata say what it is, with digests of both.

docs/adapter_files.md describes it. This module knows no model.
"""
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmparax.errors import InputError, ParameterError
from mmparax.utils.names import make_prefix
from mmparax.utils.storage import write
from mmparax.weights.digest import compute_digest
from mmparax.weights.reader import read_file
from mmparax.weights.seal import ADAPTER_KEY as KEY  # name of the one text among the metadata of the file

FORMAT = 2
SUFFIX = '.safetensors'
MARK = '.'  # begins the name of a tensor in a file, in place of the backbone's name and the dot behind it
CODES = {
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16', torch.int64: 'I64',
    torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8', torch.bool: 'BOOL'
}
BLANK = '0' * 64  # in place of the digest of the text while that is computed
# Field of every description -> its types; None: may be null.
FIELDS = {
    'version': (str, ), 'model': (str, ), 'backbones': (dict, ), 'fingerprint': (str, ), 'head': (dict, None),
    'head_included': (bool, ), 'dtype': (str, None), 'dataset_meta': (dict, None), 'metric': (dict, None), 'tensors': (dict, )
}
BACKBONE_FIELDS = {'type': (str, ), 'family': (str, ), 'options': (dict, ), 'adapter': (dict, ), 'base_checkpoint': (str, None)}


@dataclass
class AdapterFile:
    """Content of a file.

    Attributes:
        tensors: by their names in the model's state dict.
        about: the description; docs/adapter_files.md lists its fields.
    """
    tensors: dict[str, Tensor]
    about: dict[str, Any]


class VerifiedDescription(dict):
    """A description that fits its file by both digests. Only :func:`as_checkpoint` makes one; no file can hold one."""


def to_plain_json(value: Any) -> Any:
    """Turn configs, NumPy data and tuples into what JSON has; a class becomes its name, a number that is not finite a text."""
    if isinstance(value, Mapping):
        return {str(key): to_plain_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain_json(entry) for entry in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, (np.ndarray, np.generic)):
        return to_plain_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, '__name__', None) or str(value)


def write_adapter(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write a file whole or not at all.

    Args:
        path: must end in ``.safetensors``.
        tensors: by their names in the model's state dict.
        about: its description, without ``format_version``, ``sha256`` and ``tensors``, which are added.

    Returns:
        The description as it is in the file.

    Raises:
        InputError: for another suffix, or a description that could not be read again.
        StorageError: if it cannot be written.
    """
    if Path(path).suffix != SUFFIX:
        raise ParameterError('path', str(path), f'adapter files end in {SUFFIX}')
    about = to_plain_json(about)
    wrong = _find_problems({**about, 'tensors': {}})
    if wrong:
        raise InputError(f'the description of an adapter file to write has no valid {", ".join(wrong)}: nothing was '
                         'written. docs/adapter_files.md lists its fields.')
    prefix = _find_prefix(about)
    tensors = {
        MARK + name[len(prefix):] if prefix is not None and name.startswith(prefix) else name: value.detach().cpu().contiguous()
        for name, value in tensors.items()
    }
    summary = _summarize(tensors)
    about = {name: value for name, value in about.items() if name not in ('sha256', 'format_version', 'tensors')}
    about = {'sha256': BLANK, 'format_version': FORMAT, **about, 'tensors': summary}
    text = json.dumps(about, separators=(',', ':'), allow_nan=False)
    about['sha256'] = hashlib.sha256(text.encode()).hexdigest()
    write(path, pack_safetensors(tensors, json.dumps(about, separators=(',', ':'), allow_nan=False)),
          remedy='Make room, or choose another place.')
    return about


def pack_safetensors(tensors: Mapping[str, Tensor], text: str) -> bytes:
    """Return tensors and the text of a description as the bytes of a safetensors file, the same for the same content.

    The package's own writer gives metadata a random order and sorts by name. Here small tensors come first, so that the
    offsets of the many small ones are short numbers: in a small file the header counts.

    Raises:
        ParameterError: for a dtype that safetensors does not have.
    """
    header: dict[str, Any] = {'__metadata__': {KEY: text}}
    parts, end = [], 0
    for name, value in sorted(tensors.items(), key=lambda entry: (-entry[1].itemsize, entry[1].nbytes, entry[0])):
        if value.dtype not in CODES:
            raise ParameterError(f'dtype of {name}', value.dtype, f'safetensors has {", ".join(map(str, CODES))}')
        start, end = end, end + value.nbytes
        header[name] = dict(dtype=CODES[value.dtype], shape=list(value.shape), data_offsets=[start, end])
        parts.append(value.flatten().view(torch.uint8).numpy().tobytes())
    packed = json.dumps(header, separators=(',', ':')).encode()
    packed += b' ' * (-len(packed) % 8)
    return b''.join([len(packed).to_bytes(8, 'little'), packed, *parts])


def _find_prefix(about: Mapping[str, Any]) -> str | None:
    """Return the prefix of a model's only adapted backbone; None if it has several."""
    names = list(about['backbones'])
    return make_prefix(names[0]) if len(names) == 1 else None


def restore_names(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a file by the names that they have in the model that ``about`` describes."""
    prefix = _find_prefix(about)
    return {
        prefix + name[len(MARK):] if prefix is not None and name.startswith(MARK) else name: value
        for name, value in tensors.items()
    }


def verify(tensors: Mapping[str, Tensor], texts: Mapping[str, str], source: str) -> dict[str, Any]:
    """Return the description of a file whose tensors and metadata were read, after checking both against their digests.

    Raises:
        InputError: if it is no adapter file, one of another format version, or not what was written.
    """
    damaged = f'the adapter file {source!r} is damaged and was not loaded'
    if KEY not in texts:
        raise InputError(f'{source!r} is no adapter file: its metadata have no {KEY!r}. Make one with '
                         'mmparax.save_adapter or tools/export_adapter.py.')
    try:
        about = json.loads(texts[KEY])
        number = about['format_version']
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f'{damaged}: its description cannot be read ({type(error).__name__}). Get it again.') from error
    if number != FORMAT or isinstance(number, bool):
        older = isinstance(number, int) and not isinstance(number, bool) and number < FORMAT
        raise InputError(f'the adapter file {source!r} has format version {number!r}, and this mmparax reads version {FORMAT}: '
                         + ('export it again from the checkpoint of its run with this mmparax.'
                            if older else f'use the mmparax that wrote it ({about.get("version")!r}), or a newer one.'))
    given = about.get('sha256')
    if not isinstance(given, str) or len(given) != len(BLANK) or \
            hashlib.sha256(texts[KEY].replace(given, BLANK, 1).encode(errors='surrogatepass')).hexdigest() != given:
        raise InputError(f'{damaged}: its description is not the one that was written (the digest differs). Get it again.')
    wrong = _find_problems(about)
    if wrong:
        raise InputError(f'{damaged}: its description has no valid {", ".join(wrong)}. Get it again.')
    if any(about['tensors'].get(name) != value for name, value in _summarize(tensors).items()):
        raise InputError(f'{damaged}: its tensors are not those that were written (the digest differs). Get it again.')
    return about


def _summarize(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what a description says of the tensors, given by their names in the file."""
    return dict(number=len(tensors), bytes=sum(value.nbytes for value in tensors.values()),
                sha256=compute_digest(tensors.items()))


def _find_problems(about: Mapping[str, Any]) -> list[str]:
    """Return the names of fields that a description lacks, or has in another form than it must."""
    wrong = _find_invalid(about, FIELDS)
    if wrong:
        return wrong
    wrong = [
        f'backbones.{make_printable(name)}' for name, entry in about['backbones'].items()
        if not isinstance(entry, dict) or _find_invalid(entry, BACKBONE_FIELDS) or 'type' not in entry['adapter']
    ]
    return wrong + ([] if has_valid_classes(about['dataset_meta'] or {}) else ['dataset_meta.classes'])


def has_valid_classes(dataset_meta: Mapping[str, Any]) -> bool:
    """Whether the names of the classes, if there are any, are a list of texts."""
    classes = dataset_meta.get('classes')
    return classes is None or isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)


def make_printable(text: str) -> str:
    """Return a text from a file with the codes of characters that cannot be printed, such as terminals' escape sequences."""
    return ''.join(sign if sign.isprintable() else sign.encode('unicode_escape').decode() for sign in text)


def _find_invalid(fields: Mapping[str, Any], types: Mapping[str, tuple]) -> list[str]:
    """Return the names of the fields that are absent or of another type."""
    return [
        name for name, kinds in types.items()
        if name not in fields or not isinstance(fields[name], tuple(type(None) if kind is None else kind for kind in kinds))
    ]


def read_adapter(path: str | Path) -> AdapterFile:
    """Read a file and check that it is whole.

    Raises:
        MissingFileError: if it does not exist.
        InputError: if it is no adapter file, damaged, or of another format version.
    """
    if Path(path).suffix != SUFFIX:
        raise ParameterError('path', str(path), f'adapter files end in {SUFFIX}')
    content = read_file(path)
    about = verify(content['state_dict'], content['meta'], str(path))
    return AdapterFile(restore_names(content['state_dict'], about), about)


def as_checkpoint(content: Any, source: str) -> Any:
    """Return a file's content as toolboxes expect a checkpoint: an adapter file is verified and gets its metadata.

    Raises:
        InputError: if it is a damaged adapter file.
    """
    texts = content.get('meta') if isinstance(content, dict) else None
    if not isinstance(texts, dict) or not isinstance(texts.get(KEY), str):
        return content
    about = verify(content['state_dict'], texts, source)
    meta: dict[str, Any] = dict(mmparax=VerifiedDescription(about, source=source))
    if about['dataset_meta'] is not None:
        meta['dataset_meta'] = to_tuples(about['dataset_meta'])
    return dict(state_dict=restore_names(content['state_dict'], about), meta=meta)


def get_description(checkpoint: Any) -> dict[str, Any] | None:
    """Return the description of an adapter file that :func:`as_checkpoint` returned; None for any other checkpoint."""
    found = (checkpoint.get('meta') or {}).get('mmparax') if isinstance(checkpoint, Mapping) else None
    return found if isinstance(found, VerifiedDescription) else None


def format_description(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a description as (label, text) for people; no text of the file can command a terminal."""
    rows = [('format', f'{about["format_version"]}, written by mmparax {about["version"]}')]
    for name, entry in about['backbones'].items():
        options = {key: value for key, value in entry['options'].items() if value not in (None, {}, [], False, 0)}
        method_options = {key: value for key, value in entry['adapter'].items() if key != 'type'}
        rows += [('backbone' if len(about['backbones']) == 1 else name, f'{entry["type"]} ({entry["family"]})'),
                 ('  options', _join_options(options)), ('  method', str(entry['adapter']['type'])),
                 ('  its options', _join_options(method_options) or '–'), ('  base', str(entry['base_checkpoint']))]
    head, meta = about['head'] or {}, about['dataset_meta'] or {}
    heads = [
        f'{name}: {value["type"]}' for name, value in head.items()
        if isinstance(value, dict) and 'type' in value and name != 'data_preprocessor'
    ]
    classes = meta.get('classes') or []
    shown = ', '.join(map(str, classes[:8])) + (', …' if len(classes) > 8 else '')
    tensors = about['tensors']
    rows += [('fingerprint of the base', about['fingerprint']), ('model', about['model']),
             ('head', (', '.join(heads) or 'yes') if about['head_included'] else 'none'),
             ('classes', f'{len(classes)}: {shown}' if classes else '–'), ('metric', _join_options(about['metric'] or {}) or '–'),
             ('tensors', f'{tensors["number"]}, {tensors["bytes"] / 1e6:.2f} MB, {about["dtype"]}'),
             ('digest of the tensors', f'{tensors["sha256"]} (checked)')]
    return [(make_printable(label), make_printable(text)) for label, text in rows]


def _join_options(values: Mapping[str, Any]) -> str:
    return ', '.join(f'{name}={value}' for name, value in values.items())


def to_tuples(dataset_meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return names and colours of the classes in tuples, as the toolboxes' data sets have them."""
    return {
        name: tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value) if isinstance(value, list) else value
        for name, value in dataset_meta.items()
    }
