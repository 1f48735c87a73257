"""What pyproject.toml cannot hold: configs, tools and demo travel inside the package."""
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Copy configs, tools, demo and the model index into ``mmparax/.mim``, where OpenMMLab looks for those of a package."""

    def run(self):
        super().run()
        if self.editable_mode:  # the clone itself is used
            return
        mim = Path(self.build_lib) / 'mmparax' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        for folder in ('configs', 'tools', 'demo'):
            shutil.copytree(ROOT / folder, mim / folder, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(ROOT / 'model-index.yml', mim)


setup(cmdclass={'build_py': BuildWithConfigs})
