"""Metadata of a checkpoint as one text, for safetensors files, which hold nothing else besides tensors."""
import json
from collections.abc import Mapping
from typing import Any

from mmparax.errors import InputError
from mmparax.weights.adapter_file import to_plain_json, to_tuples

KEY = 'mmparax_checkpoint'  # name of the one text


def encode_meta(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a checkpoint as safetensors takes them: one text by name."""
    return {KEY: json.dumps(to_plain_json(meta), separators=(',', ':'), allow_nan=False)}


def decode_meta(content: Any, source: str) -> Any:
    """Return a file's content with the metadata that :func:`encode_meta` wrote; any other content as it is.

    Raises:
        InputError: if the text is damaged.
    """
    texts = content.get('meta') if isinstance(content, dict) else None
    if not isinstance(texts, dict) or not isinstance(texts.get(KEY), str):
        return content
    try:
        meta = dict(json.loads(texts[KEY]))
        if isinstance(meta.get('dataset_meta'), dict):
            meta['dataset_meta'] = to_tuples(meta['dataset_meta'])
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f'the checkpoint {source!r} is damaged: its metadata cannot be read ({type(error).__name__}). '
                         'Get it again.') from error
    return dict(content, meta=meta)
