"""Folders that appear whole, what killed calls leave behind, and a config that cannot be written."""
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.mask_folders import prepare, save
from mmparax.datasets.drafts import remove_stale, replace_folder, write_last
from mmparax.errors import InputError, MissingFileError, StorageError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find_dead_process():
    child = subprocess.Popen([sys.executable, '-c', ''])
    child.wait()
    return child.pid


def make(*names):
    for name in names:
        Path(name).mkdir(parents=True)
        Path(name, 'file').write_text(name)


def test_only_drafts_of_dead_processes_are_removed(here):
    node, dead = platform.node(), find_dead_process()
    stale = [f'.mine.{node}.{dead}.tmp', f'.mine.{node}.{os.getpid()}.tmp']
    kept = [
        f'.mine.{node}.1.tmp', f'.mine.elsewhere.{dead}.tmp', f'.other.{node}.{dead}.tmp', f'.mine.{node}.{dead}.tmp.notes',
        f'mine.{node}.{dead}.tmp', f'.mine.{node}.x{dead}.tmp'
    ]
    make(*stale, *kept, 'mine')
    Path(f'.mine.{node}.{dead}.old').symlink_to('mine')
    remove_stale('mine')
    assert sorted(os.listdir()) == sorted([*kept, 'mine', f'.mine.{node}.{dead}.old'])


def test_a_folder_that_a_killed_call_had_set_aside_comes_back(here):
    node, dead = platform.node(), find_dead_process()
    make(f'.mine.{node}.{dead}.old', f'.mine.{node}.{dead}.tmp')
    remove_stale('mine')
    assert os.listdir() == ['mine'] and Path('mine/file').read_text().endswith('.old')


def test_a_killed_call_leaves_a_draft_that_the_next_one_removes(here):
    child = os.fork()
    if not child:
        with replace_folder('data/mine') as draft:
            (draft / 'half').write_text('x')
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    left, = os.listdir('data')
    assert left.startswith('.mine.') and left.endswith('.tmp')
    save(here)
    assert prepare() is None
    assert os.listdir('data') == ['mine']


@pytest.mark.parametrize('error', [OSError('disk full'), KeyboardInterrupt()], ids=['storage', 'interrupt'])
def test_after_an_error_the_folder_is_what_it_was(error, here):
    make('mine')
    with pytest.raises(StorageError if isinstance(error, OSError) else KeyboardInterrupt), replace_folder('mine') as draft:
        (draft / 'new').write_text('x')
        raise error
    assert os.listdir() == ['mine'] and os.listdir('mine') == ['file']


def copy_absent(draft):
    shutil.copyfile('absent.jpg', draft / 'absent.jpg')


def copy_into_nothing(draft):
    Path('there.jpg').write_text('x')
    shutil.copyfile('there.jpg', draft / 'no folder' / 'there.jpg')


def miss(draft):
    raise MissingFileError('mask.png is not there.')


@pytest.mark.parametrize('write, kind, text', [
    (copy_absent, InputError, "'absent.jpg' cannot be read: No such file or directory."),
    (copy_into_nothing, StorageError, "mine' cannot be written: "),
    (miss, MissingFileError, 'mask.png is not there.'),
])
def test_the_file_that_an_error_is_about_is_named(write, kind, text, here):
    with pytest.raises(kind) as caught, replace_folder('mine') as draft:
        write(draft)
    assert text in str(caught.value) and not Path('mine').exists()


# ---- the config ----


@pytest.mark.parametrize('config', ['file/mine.py', 'file/deep/mine.py', '/proc/mine.py', 'long' + 'g' * 300 + '.py'],
                         ids=['below a file', 'deep below a file', 'no place for files', 'too long'])
def test_a_config_that_cannot_be_written_stops_before_the_data(config, here):
    save(here)
    Path('file').write_text('mine')
    text = prepare('--config', config)
    assert 'mine.py' in text or 'long' in text
    assert text.startswith(('ParameterError: --config=', 'StorageError: ')) and '\n' not in text
    assert sorted(os.listdir()) == ['file', 'images', 'masks'] or os.listdir('data') == []
    assert not Path('data/mine').exists() and Path('file').read_text() == 'mine'


def test_data_that_cannot_be_written_leave_no_config(here, monkeypatch):
    save(here)
    monkeypatch.setattr('shutil.copyfile', lambda *_: (_ for _ in ()).throw(OSError('No space left on device')))
    assert 'No space left on device' in prepare('--config', 'configs/new/mine.py')
    assert sorted(path for path in os.listdir() if path != 'data') == ['images', 'masks']


def test_the_config_may_lie_in_the_folder(here):
    save(here)
    assert prepare('--config', 'data/mine/config.py') is None
    assert sorted(os.listdir('data/mine')) == ['annotations', 'classes.json', 'config.py', 'images']


def test_nothing_of_a_file_is_left_when_the_block_fails(here):
    make('kept')
    with pytest.raises(RuntimeError), write_last('kept/new/file.py', 'text', inside='data'):
        assert os.listdir('kept/new') != []
        raise RuntimeError
    assert os.listdir('kept') == ['file']
