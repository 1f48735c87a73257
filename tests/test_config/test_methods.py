"""Another method than the base config's: by ``_delete_=True``, from the command line and by inheritance."""
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

from helpers.cases import TINY_SWIN
from mmparax.config.files import load_config
from mmparax.errors import ParameterError

BASE = """
model = dict(backbone=dict(type='mmparax.AdaptedSwin', adapter={adapter}))
"""


@pytest.fixture
def write(tmp_path):

    def write(adapter, inherited=None):
        (tmp_path / 'base.py').write_text(BASE.format(adapter=adapter))
        (tmp_path / 'mine.py').write_text("_base_ = './base.py'\n"
                                          + (f'model = dict(backbone=dict(adapter={inherited}))\n' if inherited else ''))
        return str(tmp_path / 'mine.py')

    return write


ADAROUTE = "dict(type='mmparax.AdaRoute', hidden_dim=16, router_dim=4)"
# What the base has, what replaces it, what is left.
REPLACED = [
    (ADAROUTE, "dict(_delete_=True, type='mmparax.LoRA')", dict(type='mmparax.LoRA')),
    (ADAROUTE, "dict(_delete_=True, type='mmparax.Mona', hidden_dim=8)", dict(type='mmparax.Mona', hidden_dim=8)),
    ("dict(type='mmparax.AdaRoute')", "dict(type='mmparax.LoRA', rank=2)", dict(type='mmparax.LoRA', rank=2)),
    ('None', "dict(_delete_=True, type='mmparax.LoRA')", dict(type='mmparax.LoRA')),
    (ADAROUTE, 'None', None),
    # The same method, by its scope or without: its options stay.
    (ADAROUTE, "dict(type='AdaRoute', hidden_dim=8)", dict(type='AdaRoute', hidden_dim=8, router_dim=4)),
    (ADAROUTE, 'dict(hidden_dim=8)', dict(type='mmparax.AdaRoute', hidden_dim=8, router_dim=4)),
]


def options_of(text):
    """The dict as ``--cfg-options`` gives it: by dotted names, ``{}`` for None."""
    given = eval(text)
    return {f'model.backbone.adapter.{name}': value
            for name, value in given.items()} if given else {'model.backbone.adapter': None}


@pytest.mark.parametrize('base, mine, expected', REPLACED)
def test_one_line_is_another_method(base, mine, expected, write):
    assert load_config(write(base, mine)).model.backbone.adapter == expected
    assert load_config(write(base), options_of(mine)).model.backbone.adapter == expected


@pytest.mark.parametrize('mine, kept', [("dict(type='mmparax.Mona')", 'hidden_dim=16, router_dim=4'),
                                        ("dict(type='mmparax.LoRA', rank=2)", 'hidden_dim=16, router_dim=4'),
                                        ("dict(type='mmparax.Mona', hidden_dim=8)", 'router_dim=4')])
def test_options_of_the_other_method_are_not_kept(mine, kept, write):
    """Mona has a hidden_dim, too: it would be AdaRoute's, without a word."""
    for read in (lambda: load_config(write(ADAROUTE, mine)), lambda: Config.fromfile(write(ADAROUTE, mine)),
                 lambda: load_config(write(ADAROUTE), options_of(mine))):
        with pytest.raises(ParameterError) as error:
            read()
        kind = eval(mine)['type']
        assert (error.value.parameter, error.value.value) == ('adapter.type', kind)
        assert str(error.value) == (
            f"adapter.type='{kind}' is not allowed: the config that it changes has the adapter AdaRoute, whose {kept} would be "
            f"kept. Write adapter=dict(_delete_=True, type='{kind}'), or add model.backbone.adapter._delete_=True to "
            '--cfg-options.')


def test_parts_of_others_that_are_called_so_are_merged(tmp_path):
    (tmp_path / 'base.py').write_text("adapter = dict(type='A', width=3)\n")
    (tmp_path / 'mine.py').write_text("_base_ = './base.py'\nadapter = dict(type='B')\n")
    assert Config.fromfile(tmp_path / 'mine.py').adapter == dict(type='B', width=3)


def test_delete_over_nothing_builds():
    """mmengine takes ``_delete_`` away only where the base has such a dict."""
    model = MODELS.build(
        dict(type='mmparax.AdaptedSwin', allow_random_base=True, adapter=dict(_delete_=True, type='mmparax.LoRA', rank=2),
             **TINY_SWIN))
    assert type(model.method).__name__ == 'LoRA' and model.method.config['rank'] == 2
