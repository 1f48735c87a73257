"""What a result depends on, and the few options by which the recipes of the small scenes are shortened and moved."""
import ast
import hashlib
import json
from pathlib import Path
from typing import Any, Dict, List, Mapping

from mmengine.config import Config

import mmparax


def fingerprint(*parts: bytes) -> str:
    """A short digest of all that a result depends on."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def package_source(*parts: str) -> bytes:
    """What the package's own code does: without comments, docstrings and line breaks.

    Args:
        *parts: folders and files below ``mmparax/``; all of it by default.
    """
    files: List[Path] = []
    for path in (Path(mmparax.__file__).parent / part for part in parts or ('.', )):
        files += [path] if path.is_file() else sorted(each for each in path.rglob('*') if each.suffix in ('.py', '.c', '.h'))
    texts = [(file.suffix, file.read_text(encoding='utf-8')) for file in files]
    return '\n'.join(code(text) if suffix == '.py' else text for suffix, text in texts).encode()


def code(source: str) -> str:
    """A Python file without what has no effect."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, 'body', None)
        if isinstance(body, list):
            node.body = [part for part in body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))]
    return ast.dump(tree)


def code_version() -> str:
    """A digest of the code that a training's numbers depend on, besides its config, data and base."""
    return fingerprint(package_source('adapters', 'backbones', 'ops', 'datasets', 'optim.py'))


def content(value: Any) -> bytes:
    """A config or a part of one as bytes, whatever order it was written in."""
    return json.dumps(value, sort_keys=True, default=str).encode()


def data_options(cfg: Config, data: str) -> Dict[str, str]:
    """Options that let a config look for its data in another folder: the evaluators of COCO's tasks, too."""
    options = {f'{loader}.dataset.data_root': data for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')}
    for evaluator in ('val_evaluator', 'test_evaluator'):
        options.update({f'{evaluator}.{name}': f'{data}{cfg[evaluator][name][len(cfg.data_root):]}'
                        for name in ('ann_file', 'seg_prefix') if name in cfg[evaluator]})
    return options


def length_options(iterations: int, interval: int = 0) -> Dict[str, int]:
    """Options that give a recipe of the scenes another length: an eighth of it is warm-up, the rest decay.

    Args:
        iterations: of the training.
        interval: iterations between checkpoints; only the last one by default.
    """
    warmup = -(-iterations // 8)
    return {'train_cfg.max_iters': iterations, 'train_cfg.val_interval': iterations, 'param_scheduler.0.end': warmup,
            'param_scheduler.1.begin': warmup, 'param_scheduler.1.end': iterations,
            'default_hooks.checkpoint.interval': interval or iterations}


def as_arguments(options: Mapping[str, Any]) -> List[str]:
    """Options in the form that ``--cfg-options`` takes."""
    return [f'{name}={value}' for name, value in options.items()]
