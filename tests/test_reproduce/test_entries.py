"""The entries of the paper's tables, at full and at tiny scale."""
from collections import Counter

import pytest

from mmparax.benchmark.parameter_counts import ParameterCounter
from mmparax.config.shipped import resolve_config
from mmparax.errors import ParameterError
from mmparax.reproduce.entries import TABLES, list_paper_entries, read_published_average, read_published_numbers, select_entries
from mmparax.reproduce.full import FullScale
from mmparax.reproduce.tiny import BLOCKS, TinyScale, list_tiny_entries
from mmparax.utils.code_digest import compute_parts_digest, encode_content

ENTRIES = {1: 24, 2: 24, 3: 24, 4: 21, 5: 4, 6: 4, 7: 7, 8: 3, 9: 3, 10: 2}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    counter = ParameterCounter(tmp_path_factory.mktemp('counts') / 'counts.json')
    return TinyScale(counter, data=str(tmp_path_factory.mktemp('data')))


def test_every_entry_of_the_paper_is_there_with_a_config_and_its_published_numbers():
    entries = list_paper_entries()
    assert Counter(entry.table for entry in entries) == ENTRIES
    for entry in entries:
        assert resolve_config(entry.config).is_file(), entry.config
        assert tuple(entry.published) == entry.metrics
        assert all(0 < value < 100 for value in entry.published.values())
        assert (entry.params_published is None) == (entry.table in (6, 8, 9, 10))
    configs = Counter(entry.config for entry in entries)
    assert configs['ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco.py'] == 6  # the default is in each of Tables 5-10
    assert sum(configs.values()) - len(configs) == 5


def test_published_numbers_are_those_of_their_entry():
    numbers = {(entry.table, entry.row, entry.backbone, entry.dataset): (entry.params_published, *entry.published.values())
               for entry in list_paper_entries()}
    assert numbers[1, 'AdaRoute', 'swin-b', 'ade20k'] == (5.2, 50.3)
    assert numbers[2, 'Mona', 'convnext-l', 'coco'] == (9.1, 48.9, 71.4, 53.7, 44.4, 68.4, 48.1)
    assert numbers[3, 'LoRand', 'convnext-b', 'coco'] == (6.7, 45.9, 78.6, 56.0)
    assert numbers[4, 'LoRA', 'vit-b16', 'svhn'] == (3.9, 97.1)
    assert numbers[5, 'L/2-192', 'swin-b', 'coco'] == (5.4, 47.2, 42.6)
    assert numbers[7, 'k579', 'swin-b', 'coco'] == (5.5, 46.9, 42.6)
    assert numbers[9, 'sequential_no_residual', 'swin-b', 'coco'] == (None, 46.6, 42.3)


def test_no_published_number_changes_unnoticed():
    assert compute_parts_digest(encode_content(read_published_numbers())) == '233248b38a1b3f21'


def test_the_published_averages_of_table_4_are_those_of_its_data_sets():
    rows = {entry.row for entry in list_paper_entries() if entry.table == 4}
    for row in rows:
        values = [entry.published['top-1'] for entry in list_paper_entries() if (entry.table, entry.row) == (4, row)]
        assert read_published_average('vit-b16', row) == pytest.approx(sum(values) / 3, abs=0.05)


def test_tiny_entries_stand_for_all_entries_that_have_a_counterpart():
    entries = list_tiny_entries()
    papers = [paper for entry in entries for paper in entry.papers]
    assert len(papers) == len(set(map(str, papers))) == sum(ENTRIES.values()) - sum(blocks is None for blocks in BLOCKS.values())
    frozen = [entry for entry in entries if not entry.papers]
    assert [(entry.table, entry.row, entry.backbone) for entry in frozen] == [(1, 'Frozen', 'swin-mini'),
                                                                              (1, 'Frozen', 'convnext-mini'),
                                                                              (2, 'Frozen', 'swin-mini'),
                                                                              (2, 'Frozen', 'convnext-mini'),
                                                                              (3, 'Frozen', 'swin-mini'),
                                                                              (3, 'Frozen', 'convnext-mini'),
                                                                              (4, 'Frozen', 'vit-mini')]
    assert Counter(entry.table for entry in entries) == {1: 14, 2: 14, 3: 14, 4: 8, 5: 4, 6: 3, 7: 7, 8: 3, 9: 3, 10: 2}
    names = {entry.name for entry in entries}
    assert len(names) == len(entries) - 5 and not any(entry.published for entry in entries)


@pytest.mark.parametrize('parameter, values, known', [('table', dict(table=[11]), '1, 2, 3'),
                                                      ('row', dict(table=[1], row=['DoRA']), 'LoRA'),
                                                      ('row', dict(table=[4], row=['k579']), 'Full-tuning'),
                                                      ('backbone', dict(backbone=['resnet']), 'swin-b')])
def test_what_is_not_in_the_tables_is_named_with_what_is(parameter, values, known):
    with pytest.raises(ParameterError, match=f'choose among those.*{known}') as caught:
        select_entries(list_paper_entries(), **values)
    assert caught.value.parameter == parameter


def test_rows_and_backbones_are_chosen_in_any_spelling_and_by_the_papers_name():
    assert len(select_entries(list_paper_entries(), [4], ['full', 'LORA'])) == 6
    chosen = select_entries(list_tiny_entries(), [1], ['adaroute'], ['swin-l'])
    assert [(entry.backbone, len(entry.papers)) for entry in chosen] == [('swin-mini', 2)]


@pytest.mark.parametrize('table, backbone', [(1, 'swin-mini'), (2, 'convnext-mini'), (4, 'vit-mini')])
def test_tiny_sizes_come_nearest_to_adaroute(tiny, table, backbone):
    entries = {entry.row: entry for entry in tiny.entries if (entry.table, entry.backbone) == (table, backbone)}
    target = tiny.count_parameters(entries['AdaRoute'])
    assert tiny.size_adapter(entries['AdaRoute']) == dict(type='mmparax.AdaRoute', hidden_dim=16)
    for row, option in (('LoRA', 'rank'), ('AdaptFormer', 'hidden_dim'), ('LoRand', 'rank'), ('Mona', 'hidden_dim')):
        if row not in entries:
            assert backbone == 'convnext-mini' and row == 'LoRA'
            continue
        adapter, config = tiny.size_adapter(entries[row]), tiny.compose_recipe(entries[row]).model.backbone
        here = abs(tiny.count_parameters(entries[row]) - target)
        assert here < 0.05 * target
        for width in (adapter[option] - 1, adapter[option] + 1):
            assert here <= abs(tiny.counter.count({**config, 'adapter': {**adapter, option: width}}) - target)
        if row == 'LoRand':
            assert adapter['branches'] == 2 and ('sites' in adapter) == (backbone == 'vit-mini')


def test_tiny_ablations_have_the_papers_options_at_a_small_width(tiny):
    entries = {(entry.table, entry.row): tiny.size_adapter(entry) for entry in tiny.entries if entry.table > 4}
    assert [entries[5, row]['hidden_dim'] for row in ('4L-40', '2L-72', 'L-128', 'L/2-192')] == [5, 9, 16, 24]
    assert [entries[6, row].get('layers_per_center') for row in ('18', '9', '3')] == [None, 2, 1]
    assert entries[10, 'sigmoid']['router_activation'] == 'sigmoid' and entries[7, 'k579+SA']['kernel_sizes'] == (5, 7, 9)
    assert all(adapter['layer_scale_init'] == 1e-5 for adapter in entries.values())


def test_a_tiny_config_is_as_long_as_wanted_and_can_be_read_again(tiny, tmp_path):
    from mmengine.config import Config
    entry = select_entries(tiny.entries, [2], ['LoRA'])[0]
    tiny.write_config(entry, 3, tmp_path)
    cfg = Config.fromfile(tiny.locate_config(entry, 3, tmp_path))
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 200 and cfg.param_scheduler[0].end == 25
    assert cfg.randomness == dict(seed=3) and cfg.default_hooks.checkpoint.interval == 50
    assert cfg.train_dataloader.dataset.data_root == tiny.data and cfg.val_evaluator.ann_file.startswith(tiny.data)
    assert cfg.model.backbone.adapter == tiny.size_adapter(entry)


@pytest.mark.parametrize('gpus, changed', [(4, {}), (1, {'train_dataloader.batch_size': 16}),
                                           (8, {'train_dataloader.batch_size': 2})])
def test_full_scale_keeps_the_recipes_batch(gpus, changed, tmp_path):
    scale = FullScale(ParameterCounter(tmp_path / 'counts.json'))
    entry = select_entries(scale.entries, [1], ['AdaRoute'])[0]
    assert scale.build_options(entry, 2, gpus) == {'randomness.seed': 2, **changed}
    with pytest.raises(ParameterError, match='^gpus=3 is not allowed'):
        scale.build_options(entry, 0, 3)
    assert scale.get_best_metric(entry) == 'mIoU' and scale.get_length(entry) == dict(iterations=160000, epochs=None)
    panoptic = select_entries(scale.entries, [3])[0]
    assert scale.get_best_metric(panoptic) is None and scale.get_length(panoptic) == dict(iterations=None, epochs=12)


def test_tables_say_what_they_measure():
    assert set(TABLES) == set(ENTRIES) and TABLES[2].metrics[0] == 'AP^b' and len(TABLES[2].metrics) == 6
