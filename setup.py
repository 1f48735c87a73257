"""Installs mmparax; configs and tools travel inside the package."""
import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
version = {}
exec((ROOT / 'mmparax' / 'version.py').read_text(), version)


class BuildWithConfigs(build_py):
    """Copy configs, tools and demo into ``mmparax/.mim``, where OpenMMLab looks for those of a package."""

    def run(self):
        super().run()
        for folder in ('configs', 'tools', 'demo'):
            target = Path(self.build_lib) / 'mmparax' / '.mim' / folder
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns('__pycache__'))


setup(
    name='mmparax',
    version=version['__version__'],
    description='Frozen vision backbones with small trained adapters for OpenMMLab: AdaRoute (ParaX) and its baselines',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8') if os.path.exists(ROOT / 'README.md') else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmparax', 'mmparax.*']),
    package_data={'mmparax': ['zoo/*.safetensors', 'zoo/*.log', 'reproduce/*.json', 'analysis/report/*.html',
                              'ops/cpu/*.[ch]', '.mim/model-index.yml']},
    python_requires='>=3.10',
    # The OpenMMLab packages exist under two distribution names; mmparax checks for them at import by name.
    install_requires=['torch>=2.5', 'numpy', 'safetensors'],
    extras_require={
        'onedl': ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmsegmentation', 'onedl-mmdetection'],
        'scenes': ['scikit-learn', 'matplotlib', 'tqdm', 'pillow', 'pycocotools'],
        'report': ['jinja2', 'matplotlib', 'pillow', 'tqdm'],
        'onnx': ['onnx', 'onnxscript', 'onnxruntime'],
        'tests': ['pytest'],
    },
    cmdclass={'build_py': BuildWithConfigs})
