"""Reading config files."""
import os
from pathlib import Path

import pytest

from mmparax.config.files import check_checkpoint, load_config
from mmparax.errors import InputError, MissingFileError, ParameterError


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    path = tmp_path / 'config.py'
    path.write_text('a = dict(b=1, c=2)')
    return str(path)


def test_options_change_what_the_file_says(path):
    cfg = load_config(path, {'a.b': 3, 'd.e': 4})
    assert cfg.a == dict(b=3, c=2) and cfg.d.e == 4 and cfg.launcher == 'none'


def test_work_dir_is_the_argument_or_of_the_config_or_named_after_the_file(path):
    assert load_config(path).work_dir == os.path.join('work_dirs', 'config')
    Path(path).write_text("work_dir = 'mine'")
    assert load_config(path).work_dir == 'mine'
    assert load_config(path, work_dir='another').work_dir == 'another'


def test_what_is_missing_or_no_config_is_named(path, tmp_path):
    with pytest.raises(MissingFileError, match="config 'absent.py' does not exist"):
        load_config('absent.py')
    with pytest.raises(MissingFileError, match='checkpoint .*absent.pth.* does not exist'):
        check_checkpoint(str(tmp_path / 'absent.pth'))
    check_checkpoint('https://example.org/x.pth')
    Path(path).write_text('a = (')
    with pytest.raises(InputError, match='config.py.* could not be read .SyntaxError'):
        load_config(path)


@pytest.mark.parametrize('launcher, expected', [('mpi', '5'), ('none', '0')])
def test_mpi_says_the_place_on_the_machine_by_a_variable_of_its_own(launcher, expected, monkeypatch, tmp_path):
    monkeypatch.setenv('LOCAL_RANK', 'to be put back')
    monkeypatch.delenv('LOCAL_RANK')
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_RANK', '5')
    (tmp_path / 'config.py').write_text('a = 1')
    load_config(str(tmp_path / 'config.py'), launcher=launcher)
    assert os.environ['LOCAL_RANK'] == expected


ADAPTED = """adapter = dict(type='mmparax.AdaRoute')
model = dict(backbone=dict(type='mmparax.AdaptedSwin', adapter={}))"""


@pytest.mark.parametrize('name, value', [('adapter.hidden_dim', 3), ('adapter', 'mmparax.LoRA')])
def test_an_option_at_the_top_level_would_have_no_effect(name, value, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(ADAPTED.format('adapter'))
    assert load_config(str(path)).model.backbone.adapter.type == 'mmparax.AdaRoute'  # a name that the file itself uses
    with pytest.raises(ParameterError) as error:
        load_config(str(path), {name: value})
    assert (error.value.parameter, error.value.value) == (name, value)
    assert error.value.remedy == f'Use model.backbone.{name}.'


@pytest.mark.parametrize('own', ["dict(type='mmparax.LoRA')", None])
def test_a_method_at_the_top_level_would_have_no_effect(own, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(ADAPTED.format(own))
    with pytest.raises(ParameterError) as error:
        load_config(str(path))
    assert error.value.parameter == 'adapter' and error.value.remedy == 'Use model.backbone.adapter.'


def test_a_name_of_somebody_else_is_not_meant(tmp_path):
    (tmp_path / 'config.py').write_text("adapter = dict(size=1)\nmodel = dict(backbone=dict(type='ResNet'))")
    assert load_config(str(tmp_path / 'config.py'), {'adapter.size': 2}).adapter.size == 2
