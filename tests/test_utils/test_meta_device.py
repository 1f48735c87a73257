"""Models without memory: shapes as usual, no values, and nothing else in the process is another one."""
import threading

import pytest
import torch
from mmengine.model.weight_init import trunc_normal_init
from torch import nn

from mmparax.utils.meta_device import use_meta_device


def test_parameters_have_shapes_and_no_memory():
    with use_meta_device():
        layer = nn.Linear(3, 4)
        trunc_normal_init(layer, std=0.02, bias=0.5)
        for initialize in (nn.init.trunc_normal_, nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.orthogonal_):
            assert initialize(nn.Conv2d(2, 3, 3).weight).shape == (3, 2, 3, 3)
    assert layer.weight.is_meta and layer.weight.shape == (4, 3) and layer.weight.requires_grad


def test_numbers_that_upstream_reads_have_values():
    with use_meta_device():
        rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
        numbers = torch.arange(4).tolist()
        assert torch.arange(4, device='meta').is_meta and torch.zeros(2).is_meta
    assert rates == [0., 0.5, 1.] and numbers == [0, 1, 2, 3]


def test_tensors_with_memory_are_written():
    with use_meta_device():
        tensor = torch.empty(100, device='cpu')
        nn.init.uniform_(tensor, 5, 6)
        assert bool((tensor >= 5).all()) and bool((tensor.fill_(2) == 2).all())


def test_other_threads_and_what_comes_after_are_not_affected():
    functions = {name: getattr(torch, name) for name in ('linspace', 'arange')}
    made = []
    with use_meta_device():
        assert all(getattr(torch, name) is function for name, function in functions.items())
        thread = threading.Thread(target=lambda: made.append(nn.init.constant_(torch.zeros(2), 3.)))
        thread.start()
        thread.join()
    assert made[0].tolist() == [3., 3.]
    with pytest.raises(RuntimeError, match='inside'), use_meta_device():
        raise RuntimeError('inside')
    assert nn.init.constant_(torch.zeros(2), 3.).tolist() == [3., 3.]
