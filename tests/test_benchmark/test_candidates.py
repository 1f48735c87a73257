"""What the benchmark compares, and in which sizes."""
import pytest
import torch

from mmparax.backbones import AdaptedSwin
from mmparax.benchmark import candidates
from mmparax.benchmark.candidates import list_candidates
from mmparax.benchmark.plain_adapters import PlainMona
from mmparax.errors import ParameterError


def test_rows_are_the_choices_that_make_a_difference(monkeypatch):
    monkeypatch.setattr(candidates, 'has_efficient_attention', lambda backbone: True)
    methods = ['full', 'adaroute', 'lora', 'plain-adaroute']
    rows = list_candidates('swin-mini', methods, (64, 64), 1, ['fp32'], ['auto', 'reference'], [True, False])
    assert [(row.method, row.efficient_attention, row.ops) for row in rows] == [('full', None, None), ('adaroute', True, 'auto'),
                                                                                ('adaroute', True, 'reference'),
                                                                                ('adaroute', False, 'auto'),
                                                                                ('adaroute', False, 'reference'),
                                                                                ('lora', True, None), ('lora', False, None),
                                                                                ('plain-adaroute', False, None)]


def test_full_fine_tuning_is_upstreams_own_backbone_with_the_options_of_the_adapted_one():
    full = candidates.build_backbone('swin-mini', 'full', (64, 64), None, False)
    adapted = candidates.build_backbone('swin-mini', 'frozen', (64, 64), None, False)
    assert type(full) is AdaptedSwin.upstream and all(parameter.requires_grad for parameter in full.parameters())
    adapted.load_state_dict(full.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        full.train(False)  # upstream's gives nothing back
        for a, b in zip(full(x), adapted.eval()(x), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize('backbone, method, expected', [('swin-b', 'mona', dict(hidden_dim=90)),
                                                        ('convnext-b', 'mona', dict(hidden_dim=144)),
                                                        ('vit-b16', 'lora', dict(rank=106)),
                                                        ('swin-l', 'lorand', dict(branches=2, rank=37)),
                                                        ('swin-b', 'plain-mona', dict(type=PlainMona, hidden_dim=90)),
                                                        ('swin-l', 'adaroute-no-conv', dict(kernel_sizes=())),
                                                        ('swin-b', 'bitfit', dict(type='mmparax.BitFit')),
                                                        ('swin-mini', 'adaroute', dict(hidden_dim=16)),
                                                        ('swin-mini', 'lora', dict(rank=36)),
                                                        ('swin-mini', 'lorand', dict(branches=2, rank=11)),
                                                        ('swin-mini', 'mona', dict(hidden_dim=21)),
                                                        ('convnext-mini', 'adaptformer', dict(hidden_dim=47)),
                                                        ('convnext-mini', 'plain-mona', dict(hidden_dim=28)),
                                                        ('vit-mini', 'vpt', dict(num_prompts=10)),
                                                        ('vit-mini', 'frozen', dict(type='mmparax.Frozen'))])
def test_sizes_are_those_of_the_shipped_configs(backbone, method, expected):
    adapter = candidates.read_adapter_config(backbone, method)
    assert {name: adapter[name] for name in expected} == expected


def test_upstreams_vit_cannot_recompute_activations():
    with pytest.raises(ParameterError, match='^with_cp=True is not allowed'):
        candidates.build_backbone('vit-mini', 'full', (32, 32), None, True)
