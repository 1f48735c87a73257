"""``python -m mmparax``: the version, what is installed and missing, which operations run, where tools and configs lie.

Works without the OpenMMLab packages, and tells of a torch that cannot be imported.
"""
import argparse
import contextlib
import io
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mmparax.config.shipped import find_root
from mmparax.errors import MissingFileError, ParameterError
from mmparax.utils.text import get_first_line
from mmparax.utils.toolboxes import DISTRIBUTIONS, find_obstacle, is_installed
from mmparax.version import __version__

TORCH_PACKAGES = ('torch', 'torchvision', 'triton')
TOOLBOXES = tuple(DISTRIBUTIONS)
# For parts of mmparax; what is missing is named, with what it is for.
OPTIONAL = {
    'onnx': 'export to ONNX', 'onnxscript': 'export to ONNX', 'onnxruntime': 'checks of ONNX files',
    'sklearn': 'synthetic scenes', 'pycocotools': 'COCO files', 'matplotlib': 'pictures and reports', 'jinja2': 'reports',
    'timm': "timm's backbones", 'tensorboard': 'curves, as the shipped configs write them'
}


def find_versions() -> dict[str, str]:
    """The distribution and its version behind each import name: ``{'mmcv': '2.3.6 (onedl-mmcv)'}``."""
    versions = {}
    for package, names in metadata.packages_distributions().items():
        name = names[0]
        versions[package] = metadata.version(name) + ('' if name.lower() == package.lower() else f' ({name})')
    return versions


def describe_package(name: str, versions: dict[str, str]) -> str:
    """What is known of a package without importing it; ``missing`` if it is not there."""
    if not is_installed(name):
        return 'missing'
    return versions.get(name, 'installed, version unknown')


def describe_gpus() -> str:
    """The GPUs that torch sees, with what it was built for."""
    import torch
    built = f'torch is built for CUDA {torch.version.cuda}' if torch.version.cuda else 'torch is built without CUDA'
    if not torch.cuda.is_available():
        return f'none that torch can use ({built})'
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f'{", ".join(names)} ({built})'


def describe_c_operations() -> str:
    """Whether the operations in C run: they are compiled for that, once."""
    import torch

    from mmparax.ops.compiler import find_compiler
    from mmparax.ops.cpu.build import load_library
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        library = load_library(torch.float32)
    if library is not None:
        return 'runs' if library.has_openmp else 'runs, on one thread'
    if told:
        return f'does not run: {get_first_line(told[-1].message)}'
    return 'does not run: ' + ('no C compiler was found' if find_compiler() is None else 'it could not be compiled')


def describe_triton() -> str:
    """Whether the Triton kernels run."""
    import torch

    from mmparax.ops.triton import has_triton, runs_on
    if find_spec('triton') is None:
        return 'does not run: Triton is not installed'
    if not torch.cuda.is_available():
        return 'does not run: torch sees no GPU'
    if not has_triton():
        return "does not run: it needs a C compiler and Python's headers"
    return 'runs' if runs_on(torch.device('cuda', 0)) else 'does not run: it needs an NVIDIA GPU from Ampere on'


def describe_choice() -> str:
    """Which of them mmparax takes."""
    import torch

    from mmparax.ops.dispatch import describe_backend
    return describe_backend('cuda' if torch.cuda.is_available() else 'cpu')


def check_operators() -> str:
    """Whether mmcv has its compiled operators; mmcv and what it needs are imported for that."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        obstacle = find_obstacle('mmcv.ops')
    if obstacle is None:
        return 'with its operators'
    reason = re.sub(r'^.*?\((.*)\).*$', r'\1', obstacle, flags=re.DOTALL)
    return f'WITHOUT its operators, so that detection and most of segmentation do not work ({get_first_line(reason)})'


def _try(describe: Callable[[], str]) -> str:
    """What a question about torch is answered with; a torch that fails is part of the answer."""
    try:
        return describe()
    except ParameterError as error:
        return str(error)
    except Exception as error:
        return f'unknown ({type(error).__name__}: {get_first_line(error)})'


def collect() -> Iterator[tuple[str, str]]:
    """Pairs of a name and what is to be said about it; an empty text is a heading."""
    versions = find_versions()
    yield 'This', ''
    yield 'mmparax', f'{__version__} in {str(Path(__file__).resolve().parent)!r}'
    yield 'Python', f'{platform.python_version()} on {platform.system()} {platform.machine()}'
    yield 'PyTorch', ''
    for name in TORCH_PACKAGES:
        yield name, describe_package(name, versions)
    yield 'GPU', _try(describe_gpus) if is_installed('torch') else 'unknown without torch'
    yield 'OpenMMLab packages', ''
    for name in TOOLBOXES:
        text = describe_package(name, versions)
        if text == 'missing':
            text += f': pip install {DISTRIBUTIONS[name]}'
        elif name == 'mmcv' and is_installed('mmengine') and is_installed('torch'):
            text += ', ' + check_operators()
        yield name, text
    yield 'Further packages', ''
    for name, purpose in OPTIONAL.items():
        text = describe_package(name, versions)
        yield name, f'missing: for {purpose}' if text == 'missing' else text
    yield 'Operations (MMPARAX_OPS)', ''
    if is_installed('torch'):
        yield 'reference, fused', 'run wherever PyTorch does'
        yield 'cpu', _try(describe_c_operations)
        yield 'triton', _try(describe_triton)
        yield 'taken here', _try(describe_choice)
    else:
        yield 'none', 'without torch'
    yield 'Files', ''
    try:
        root = find_root()
        for name in ('tools', 'configs', 'demo'):
            yield name, os.path.join(str(root), name)
    except MissingFileError as error:
        yield 'tools, configs', str(error)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print it."""
    parser = argparse.ArgumentParser(prog='python -m mmparax', description=__doc__.splitlines()[0].split(': ', 1)[1].capitalize())
    parser.add_argument('--version', action='version', version=f'mmparax {__version__}')
    parser.parse_args(arguments)
    for name, text in collect():
        print(f'  {name:<16} {text}' if text else f'{name}:', flush=True)


if __name__ == '__main__':
    main()
