"""Importing the package: light, and clear about what is missing."""
import subprocess
import sys

import pytest

import mmparax
from mmparax.toolboxes import require


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr('mmparax.toolboxes.find_spec', lambda name: None if name == 'mmpretrain' else object())
    require('mmengine', 'mmcv')
    with pytest.raises(ImportError, match='mmparax needs the package mmpretrain, .*pip install onedl-mmpretrain'):
        require('mmcv', 'mmpretrain')


def test_import_loads_no_toolbox():
    code = 'import sys, mmparax.registry; print([name for name in ("mmpretrain", "mmcv", "mmdet") if name in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], text=True, capture_output=True).stdout.strip() == '[]'


def test_public_names():
    assert mmparax.count_parameters.__module__ == 'mmparax.analysis.parameters'
    with pytest.raises(AttributeError, match="'mmparax' has no attribute 'absent'"):
        mmparax.absent
