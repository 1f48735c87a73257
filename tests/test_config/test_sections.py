"""Values of a config that are of another type than a run reads, each in one sentence."""
from pathlib import Path

import pytest
from mmengine.config import Config

from mmparax.config.files import load_config
from mmparax.config.sections import check_loops, check_sections, describe_unreadable
from mmparax.errors import InputError, ParameterError

CONFIGS = Path(__file__).parents[2] / 'configs'
CONFIG = next((CONFIGS / 'quickstart').glob('upernet_swin-mini_adaroute*'))
WRONG = {  # the changed entry and its value
    'custom_hooks': ['dict(type=mmparax.PEFTHook)'], 'model': 'x', 'optim_wrapper.optimizer': 'AdamW',
    'train_dataloader.dataset': 'x', 'val_evaluator': 'IoUMetric', 'param_scheduler': ['a'], 'default_hooks': 'x', 'train_cfg': 5,
    'default_hooks.checkpoint': 'x', 'train_cfg.max_iters': 'abc', 'train_dataloader.batch_size': 'abc',
    'train_dataloader.num_workers': -1, 'optim_wrapper.optimizer.lr': '1e-3x', 'load_from': 1, 'val_dataloader.batch_size': 0,
}


@pytest.mark.parametrize('place', WRONG)
def test_values_of_another_type_are_named(place):
    # Where a word would replace a dict, mmengine itself stumbles: that is a sentence, too.
    with pytest.raises(InputError, match=rf'{place}=|could not be read'):
        load_config(str(CONFIG), {place: WRONG[place]})
    cfg = Config.fromfile(CONFIG)
    *names, last = place.split('.')
    part = cfg
    for name in names:
        part = part[name]
    part[last] = WRONG[place]
    with pytest.raises(ParameterError, match=f'{place}=.* is not allowed: it must be a') as refused:
        check_sections(cfg)
    assert refused.value.parameter == place


def test_all_shipped_configs_pass():
    for path in sorted(CONFIGS.rglob('*.py')):
        if '_base_' not in path.parts and 'existing' not in path.parts:
            cfg = Config.fromfile(path)
            check_sections(cfg)
            check_loops(cfg)


LOOPS = {
    'val_cfg': (dict(val_cfg=None), 'the config has val_dataloader and val_evaluator, but no val_cfg. Set all three'),
    'test_evaluator': (dict(test_evaluator=None), 'the config has test_dataloader and test_cfg, but no test_evaluator'),
    'optim_wrapper': (dict(optim_wrapper=None), 'the config has train_dataloader and train_cfg, but no optim_wrapper'),
    'kind of a loop': (dict(train_cfg=dict(max_iters=3)), 'it must say whether the run counts iterations or epochs'),
    'no epoch': (dict(train_cfg=dict(by_epoch=True, max_epochs=0)), 'train_cfg.max_epochs=0 is not allowed'),
}


@pytest.mark.parametrize('case', LOOPS)
def test_loops_are_whole(case):
    changes, message = LOOPS[case]
    cfg = Config.fromfile(CONFIG)
    for name, value in changes.items():
        cfg[name] = value
    with pytest.raises(InputError, match=message):
        check_loops(cfg)


@pytest.mark.parametrize('value, part', [('[dict(type=PEFTHook)]', 'cannot be a dict'),
                                         ("dict(type='mmparax.LoRA', rank=4)", 'cannot be a dict'),
                                         ('{"a": 1}', 'cannot be a dict'), ('[1,2', "1 '[' and 0 ']'"),
                                         ('(1,2]', "1 '(' and 0 ')'")])
def test_what_the_command_line_cannot_hold_is_said(value, part):
    assert part in describe_unreadable(value)


@pytest.mark.parametrize('value', ['1', '[1,2]', 'abc', '[(1,2),(3,4)]', 'None', 'a(b', '', 'path/{name}.png', 'dictionary'])
def test_the_rest_passes(value):
    assert describe_unreadable(value) is None
