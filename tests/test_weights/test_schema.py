"""Checkpoints whose parts are of another type than they must be: one sentence, before anything uses them."""
import copy

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmparax.errors import InputError
from mmparax.weights.schema import check_form

GOOD = dict(
    state_dict=dict(weight=torch.ones(2), bias=torch.ones(2)), ema_state_dict=dict(steps=torch.tensor(3)), meta=dict(
        epoch=1, iter=3, cfg='a = 1', dataset_meta=dict(classes=('a', 'b')), experiment_name='x', seed=None, mmparax=dict(
            version='0.2', fingerprint=None, head_included=True, backbones={
                'backbone': dict(type='mmparax.AdaptedSwin', family='Swin', options={}, base_checkpoint=None,
                                 adapter=dict(type='mmparax.LoRA', rank=4))
            })), message_hub=dict(log_scalars={'train/loss': HistoryBuffer([1.], [1])}, runtime_info={'iter': 3},
                                  resumed_keys={'iter': True}),
    optimizer=dict(state={0: dict(step=torch.tensor(1.))}, param_groups=[dict(params=[0], lr=0.1, betas=(0.9, 0.99))]),
    param_schedulers=[dict(last_step=3, begin=0,
                           end=5)], resume_state=[dict(generators={}, seed=1, sampler_seed=None, gradients={})])
STRANGE = [None, 3, 'text', b'bytes', [1], (2, ), {}, {1: 2}, True, 0.5, torch.ones(2), -1]
# Path -> those of STRANGE that are right there.
PLACES = {
    ('state_dict', ): [{}],
    ('state_dict', 'weight'): [torch.ones(2)],
    ('ema_state_dict', ): [{}],
    ('meta', ): [None, {}],
    ('meta', 'epoch'): [3],
    ('meta', 'iter'): [3],
    ('meta', 'cfg'): ['text', {}, {1: 2}],
    ('meta', 'dataset_meta'): [None, {}],
    ('meta', 'dataset_meta', 'classes'): [None],
    ('meta', 'mmparax'): [None, {}],
    ('meta', 'mmparax', 'fingerprint'): [None, 'text'],
    ('meta', 'mmparax', 'head_included'): [True],
    ('meta', 'mmparax', 'backbones'): [{}],
    ('meta', 'mmparax', 'backbones', 'backbone'): [{}],
    ('meta', 'mmparax', 'backbones', 'backbone', 'type'): ['text'],
    ('meta', 'mmparax', 'backbones', 'backbone', 'adapter'): [None],
    ('meta', 'mmparax', 'backbones', 'backbone', 'adapter', 'type'): ['text'],
    ('message_hub', ): [None, {}],
    ('message_hub', 'log_scalars'): [{}],
    ('message_hub', 'log_scalars', 'train/loss'): [],
    ('message_hub', 'runtime_info'): [{}],
    ('message_hub', 'resumed_keys'): [{}],
    ('message_hub', 'resumed_keys', 'iter'): [True],
    ('optimizer', ): [{}],
    ('optimizer', 'state'): [{}],
    ('optimizer', 'state', 0): [{}],
    ('optimizer', 'param_groups'): [],
    ('optimizer', 'param_groups', 0): [],
    ('optimizer', 'param_groups', 0, 'params'): [[1], (2, )],
    ('optimizer', 'param_groups', 0, 'lr'): [3, 0.5, torch.ones(2), -1],
    ('param_schedulers', ): [{}],
    ('param_schedulers', 0): [{}],
    ('param_schedulers', 0, 'last_step'): [3, 0.5, -1],
    ('resume_state', ): [None],
    ('resume_state', 0): [],
    ('resume_state', 0, 'generators'): [{}],
}


def is_among(value, allowed):
    return any(type(value) is type(entry) and repr(value) == repr(entry) for entry in allowed)


def test_a_good_one_passes():
    check_form(GOOD, 'a.pth')
    check_form(GOOD['state_dict'], 'bare.pth')


@pytest.mark.parametrize('path', PLACES, ids=lambda path: '.'.join(map(str, path)))
def test_every_other_type_is_refused_with_its_place(path):
    for value in STRANGE:
        content = copy.deepcopy(GOOD)
        target = content
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value
        if is_among(value, PLACES[path]):
            check_form(content, 'a.pth')
            continue
        with pytest.raises(InputError) as caught:
            check_form(content, 'a.pth')
        text = str(caught.value)
        assert text.startswith("the checkpoint 'a.pth' is damaged") and str(path[0]) in text and len(text) < 400, (value, text)
