"""What the log says at the start of a run."""
import logging
import re
from types import SimpleNamespace

import pytest
import torch
from cases import build
from mmengine.config import ConfigDict
from torch import nn

from mmparax.analysis.parameters import count_parameters
from mmparax.hooks import PEFTHook


class Segmentor(nn.Module):

    def __init__(self, adapter):
        super().__init__()
        self.backbone = build(adapter)
        self.head = nn.Conv2d(64, 3, 1)


def fake_runner(model, batch=4, accumulation=2, lr=1e-3, auto=None):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    lines = []
    logger = logging.getLogger('test')
    logger.info = lambda text, *args: lines.append(text % args if args else text)
    return SimpleNamespace(model=model, logger=logger, lines=lines, cfg=ConfigDict(auto_scale_lr=auto) if auto else ConfigDict(),
                           train_dataloader=SimpleNamespace(batch_size=batch),
                           optim_wrapper=SimpleNamespace(_accumulative_counts=accumulation,
                                                         param_groups=optimizer.param_groups))


@pytest.mark.parametrize('method', ['adaroute', 'frozen', None])
def test_table_has_every_part_with_its_share(method):
    model = Segmentor(method)
    runner = fake_runner(model)
    PEFTHook().before_train(runner)
    count = count_parameters(model)
    table = runner.lines[0]
    expected = {'output norms': count.output_norms.parameters, 'head': 64 * 3 + 3, 'trained': count.trained,
                'trained in backbone': count.trained_in_backbone}
    if method is None:
        expected['backbone, trained'] = count.backbone_trained.parameters
    else:
        expected['backbone, frozen'] = count.backbone_frozen.parameters
    if method == 'adaroute':
        expected.update({'adapters': count.adapters.parameters, 'expert centers': count.centers.parameters})
    total = sum(parameter.numel() for parameter in model.parameters())
    for label, number in expected.items():
        row = re.search(rf'│ {label} +│ +[\d,]* *│ +([\d,]+) │ +[\d.%]* *│ +([\d.]+)% │', table)
        assert int(row.group(1).replace(',', '')) == number > 0
        assert abs(float(row.group(2)) - 100 * number / total) < 0.006
    assert sum(rows[2] for rows in count.rows()) == total == count.total


def test_schedule_line():
    model = Segmentor('frozen')
    text = PEFTHook.describe_schedule(fake_runner(model))
    assert text == ('Effective batch size 8 = 1 process(es) x 4 images x 2 accumulated step(s). Learning rate after warm-up: '
                    '0.001.')
    text = PEFTHook.describe_schedule(fake_runner(model, auto=dict(base_batch_size=16, enable=False)))
    assert 'the recipe is for 16, the learning rate was not scaled' in text


def test_a_model_without_our_backbone_is_an_error():
    with pytest.raises(ValueError, match="Linear holds no backbone of mmparax.*AdaptedSwin"):
        count_parameters(nn.Linear(2, 2))


def test_as_dict_is_plain():
    numbers = count_parameters(build('adaroute')).as_dict()
    assert numbers['adapters']['parameters'] > 0 and isinstance(numbers['trained_in_backbone'], int)
