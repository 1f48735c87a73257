"""Counts of trainable parameters and the cache in which they are kept."""
from mmparax.benchmark.parameter_counts import ParameterCounter
from mmparax.config.shipped import read_config


def test_counts_are_kept_until_the_code_changes(tmp_path, monkeypatch):
    cache = tmp_path / 'counts.json'
    counter = ParameterCounter(cache)
    config = read_config('semantic_segmentation/upernet_swin-b_adaroute_4xb4-160k_ade20k-512x512.py')
    assert counter.count(config.model.backbone) == 5242992
    counter.save()
    assert ParameterCounter(cache).counts == counter.counts and len(counter.counts) == 1
    changes = {'mmparax.benchmark.parameter_counts.read_package_source': lambda *parts: b'other', 'mmpretrain.__version__': '9'}
    for name, other in changes.items():
        with monkeypatch.context() as changed:
            changed.setattr(name, other)
            assert ParameterCounter(cache).counts == {}
    assert ParameterCounter(cache).counts
    cache.write_text('{')
    assert ParameterCounter(cache).counts == {}
