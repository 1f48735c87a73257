"""What the safe reader takes, and that nothing in a file runs."""
import datetime
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from helpers.hostile import Hostile, through_getattr
from mmparax.weights.reader import read_file


@pytest.mark.parametrize('archive', [False, True])
def test_no_way_through_what_is_allowed(archive, tmp_path):
    path, attack = tmp_path / 'a.pth', through_getattr(tmp_path / 'trace')
    path.write_bytes(attack)
    if archive:
        torch.save({'a': torch.ones(1)}, tmp_path / 'whole.pth')
        with zipfile.ZipFile(tmp_path / 'whole.pth') as whole, zipfile.ZipFile(path, 'w') as changed:
            for part in whole.infolist():
                changed.writestr(part, attack if part.filename.endswith('data.pkl') else whole.read(part))
    with pytest.raises(ValueError, match="holds more than tensors and plain data .*getattr of '__init__'"):
        read_file(path)
    assert not (tmp_path / 'trace').exists()


def test_what_runs_and_tools_write_is_read(tmp_path):
    history = HistoryBuffer()
    history.update(2.)
    content = dict(history=history, palette=np.zeros((3, 3), np.uint8), names=np.array(['a', 'bc']), half=np.float16(1),
                   text=np.str_('x'), path=Path('a/b'), date=datetime.datetime(2020, 1, 2), kinds=frozenset('a'),
                   state=OrderedDict(a=1), number=np.int8(3), flags=np.array([True]), large=np.arange(3, dtype=np.uint64))
    torch.save(content, tmp_path / 'a.pth')
    loaded = read_file(tmp_path / 'a.pth')
    assert loaded.pop('history').mean() == content.pop('history').mean() == 2.
    content['path'] = PurePosixPath('a/b')  # a path of a file is a text that nothing is done with
    assert repr(loaded) == repr(content)


def test_plain_pickles_are_refused_too(tmp_path):
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(Hostile(tmp_path / 'trace')))
    with pytest.raises(ValueError, match='damaged'):
        read_file(tmp_path / 'a.pkl')
    assert not (tmp_path / 'trace').exists()


@pytest.mark.parametrize('content', [b'hello', b'checkpoint\n', b'', b'# a script', b'\x89PNG'], ids=repr)
def test_what_is_no_checkpoint_is_called_so(content, tmp_path):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(ValueError, match='no checkpoint at all: it is neither a torch nor a safetensors file. Check the path'):
        read_file(tmp_path / 'a.pth')


def test_read_file_names_a_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.pth'):
        read_file(tmp_path / 'nothing.pth')
