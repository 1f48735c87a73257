"""Digests of code and configs, by which a stored result tells whether it would still come out the same."""
import ast
import hashlib
import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = ('.py', '.c', '.h')


def compute_parts_digest(*parts: bytes) -> str:
    """A digest of 16 hexadecimal digits over several byte strings, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def read_package_source(*parts: str) -> bytes:
    """The package's own code without what has no effect: comments, docstrings, line breaks.

    Args:
        *parts: folders and files below ``mmparax/``; the whole package by default.

    Raises:
        FileNotFoundError: if the package has no such part; a digest that silently leaves one out would never change with it.
    """
    files: list[Path] = []
    for path in (PACKAGE / part for part in parts or ('.', )):
        if not path.exists():
            raise FileNotFoundError(f'{str(path)!r} is no part of the package.')
        files += [path] if path.is_file() else sorted(each for each in path.rglob('*') if each.suffix in SOURCES)
    texts = [(file.suffix, file.read_text(encoding='utf-8')) for file in files]
    return '\n'.join(normalize_source(text) if suffix == '.py' else text for suffix, text in texts).encode()


def normalize_source(source: str) -> str:
    """Python code in a form that comments, docstrings and layout do not change."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, 'body', None)
        if isinstance(body, list):
            kept = [part for part in body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))]
            setattr(node, 'body', kept)  # noqa: B010 - not every node has one
    return ast.dump(tree)


def encode_content(value: Any) -> bytes:
    """A config, or a part of one, as bytes that do not depend on the order in which its names were written."""
    return json.dumps(value, sort_keys=True, default=str).encode()
