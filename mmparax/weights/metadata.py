"""Metadata of a checkpoint as one text, for safetensors files, which hold nothing else besides tensors."""
import json
from typing import Any, Dict, Mapping

from mmparax.errors import InputError
from mmparax.weights.adapter_file import plain_json, tupled

KEY = 'mmparax_checkpoint'  # name of the one text


def as_text(meta: Mapping[str, Any]) -> Dict[str, str]:
    """Metadata as safetensors takes them."""
    return {KEY: json.dumps(plain_json(meta), separators=(',', ':'), allow_nan=False)}


def with_meta(content: Any, source: str) -> Any:
    """A file's content with the metadata that :func:`as_text` wrote; any other content as it is.

    Raises:
        InputError: if the text is damaged.
    """
    texts = content.get('meta') if isinstance(content, dict) else None
    if not isinstance(texts, dict) or not isinstance(texts.get(KEY), str):
        return content
    try:
        meta = dict(json.loads(texts[KEY]))
        if isinstance(meta.get('dataset_meta'), dict):
            meta['dataset_meta'] = tupled(meta['dataset_meta'])
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f'the checkpoint {source!r} is damaged: its metadata cannot be read ({type(error).__name__}). '
                             'Get it again.') from error
    return dict(content, meta=meta)
