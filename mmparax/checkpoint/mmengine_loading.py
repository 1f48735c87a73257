"""Puts safe reading and strict matching in the place of mmengine's, for every checkpoint that any toolbox loads.

mmengine falls back to full unpickling when a file holds more than tensors and plain data, and then runs the code in it.
It loads what fits of a checkpoint and logs the rest, which is how adapters came to run on a random base.
"""
from collections import OrderedDict
from typing import Any, Dict, Iterable, Mapping

from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmparax.utils.modules import unwrap_model
from mmparax.weights.adapter_file import Verified, as_checkpoint
from mmparax.weights.claims import CHECKED, CLAIM, EMA, EMA_PREFIX
from mmparax.weights.metadata import with_meta
from mmparax.weights.reader import read_file, read_torch, refusal
from mmparax.weights.sources import SHIPPED, fetch

FRESH_HEAD = 'fresh_head'  # in the claim of an adapter file from which a training starts: the head may begin anew


# mmengine logs the part of the names behind "load_from_".
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Read a local file or, with ``mmparax://``, one that ships with the package."""
    content = read_file(fetch(filename, 'checkpoint'), map_location or 'cpu')
    return with_claim(with_meta(as_checkpoint(content, filename), filename))


def load_from_http(filename: str, map_location: Any = None, model_dir: Any = None, progress: Any = None) -> Any:
    """Read the file of a URL, downloaded once per machine."""
    return load_from_local(filename, map_location)


def with_claim(content: Any) -> Any:
    """Let the weights of a checkpoint carry the fingerprint in its metadata, which their loading does not see otherwise."""
    described = (content.get('meta') or {}).get('mmparax') if isinstance(content, dict) else None
    if isinstance(described, dict):
        names = list(described['backbones']) if isinstance(described.get('backbones'), dict) else []
        for key, prefix in (('state_dict', ''), (EMA, EMA_PREFIX)):
            if isinstance(content.get(key), dict):
                content[key] = noted(content[key], described, [(prefix + name).rstrip('.') for name in names])
                content[key]._metadata[CLAIM] = described
    return content


def noted(weights: Mapping[str, Any], claim: Any, modules: Iterable[str]) -> 'OrderedDict[str, Any]':
    """A copy of a state dict with a claim in its metadata of some modules, which each of them sees when it is loaded."""
    copied, known = OrderedDict(weights), getattr(weights, '_metadata', None) or {}
    copied._metadata = {**known, **{name: {**known.get(name, {}), CLAIM: claim} for name in modules}}
    return copied


def _load_stream(file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
    """Stand-in for mmengine's own ``torch.load``, which its loaders of other storages call."""
    try:
        return read_torch(file, map_location or 'cpu')
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise refusal(str(getattr(file, 'name', 'from remote storage')), error) from error


def check_fit(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Let each adapted backbone of a model judge its part of a checkpoint, and the fingerprint that it claims.

    Raises:
        InputError: if a part does not fit or was made on another base.
        RandomBaseError: if the frozen base is left to a base that the model does not have.
    """
    backbones = [(name, part) for name, part in model.named_modules() if hasattr(part, 'check_state')]
    claim = (getattr(state_dict, '_metadata', None) or {}).get(CLAIM) or {}
    if isinstance(claim, Verified):
        from mmparax.checkpoint.compatibility import check_adapter  # imports the toolboxes
        check_adapter(model, claim, state_dict, f'the adapter file {claim["source"]!r}',
                      'any part' if claim.get(FRESH_HEAD) else 'required')
        return
    small = False  # whether a frozen base is left to the base
    for name, part in backbones:
        prefix = f'{name}.' if name else ''
        part.check_state({key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)})
        small = small or part.method is not None and not any(
            prefix + key in state_dict for key, role in part.parameter_roles().items() if role == 'base')
    if small:
        from mmparax.checkpoint.compatibility import check_base
        check_base(model, claim, 'the checkpoint')
    elif claim.get('fingerprint') and backbones and all(part.base_source == 'file' for _, part in backbones):
        from mmparax.checkpoint.fingerprint import check_fingerprint
        check_fingerprint(model, claim, 'the checkpoint')


_load_what_fits = mmengine_checkpoint.load_state_dict


def load_state_dict(module: nn.Module, state_dict: Dict[str, Any], *args: Any, **kwargs: Any) -> None:
    """mmengine's ``load_state_dict``, after each adapted backbone in ``module`` has judged its part.

    Raises:
        InputError: if a part does not fit; nothing is loaded then.
    """
    model = unwrap_model(module)
    check_fit(model, state_dict)
    backbones = [name for name, part in model.named_modules() if hasattr(part, 'check_state')]
    _load_what_fits(module, noted(state_dict, CHECKED, backbones), *args, **kwargs)


def install() -> None:
    """Replace mmengine's loaders; calling it again changes nothing."""
    mmengine_checkpoint.load_state_dict = load_state_dict
    CheckpointLoader.register_scheme(('', SHIPPED), load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)
    # torchvision://, open-mmlab:// and mmcls:// look this name up and call it; s3:// and pavi:// the next one.
    mmengine_checkpoint.load_from_http = load_from_http
    mmengine_checkpoint._safe_torch_load = _load_stream
