"""Every cell of the paper's tables, and the sizes of the tiny ones."""
from collections import Counter

import pytest

from mmparax.config.shipped import resolve_config
from mmparax.errors import InputError
from mmparax.reproduce.counts import ParameterCounts
from mmparax.reproduce.entries import TABLES, paper_cells, published_average, published_numbers, select
from mmparax.reproduce.full import FullScale
from mmparax.reproduce.settings import code, content, fingerprint
from mmparax.reproduce.tiny import BLOCKS, TinyScale, tiny_cells

CELLS = {1: 24, 2: 24, 3: 24, 4: 21, 5: 4, 6: 4, 7: 7, 8: 3, 9: 3, 10: 2}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    counts = ParameterCounts(tmp_path_factory.mktemp('counts') / 'counts.json')
    return TinyScale(counts, data=str(tmp_path_factory.mktemp('data')))


def test_every_cell_of_the_paper_is_there_with_a_config_and_its_published_numbers():
    cells = paper_cells()
    assert Counter(cell.table for cell in cells) == CELLS
    for cell in cells:
        assert resolve_config(cell.config).is_file(), cell.config
        assert tuple(cell.published) == cell.metrics
        assert all(0 < value < 100 for value in cell.published.values())
        assert (cell.params_published is None) == (cell.table in (6, 8, 9, 10))
    configs = Counter(cell.config for cell in cells)
    assert configs['ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco.py'] == 6  # the default is in each of Tables 5-10
    assert sum(configs.values()) - len(configs) == 5


def test_published_numbers_are_those_of_their_cell():
    numbers = {(cell.table, cell.row, cell.backbone, cell.dataset): (cell.params_published, *cell.published.values())
               for cell in paper_cells()}
    assert numbers[1, 'AdaRoute', 'swin-b', 'ade20k'] == (5.2, 50.3)
    assert numbers[2, 'Mona', 'convnext-l', 'coco'] == (9.1, 48.9, 71.4, 53.7, 44.4, 68.4, 48.1)
    assert numbers[3, 'LoRand', 'convnext-b', 'coco'] == (6.7, 45.9, 78.6, 56.0)
    assert numbers[4, 'LoRA', 'vit-b16', 'svhn'] == (3.9, 97.1)
    assert numbers[5, 'L/2-192', 'swin-b', 'coco'] == (5.4, 47.2, 42.6)
    assert numbers[7, 'k579', 'swin-b', 'coco'] == (5.5, 46.9, 42.6)
    assert numbers[9, 'sequential_no_residual', 'swin-b', 'coco'] == (None, 46.6, 42.3)


def test_no_published_number_changes_unnoticed():
    assert fingerprint(content(published_numbers())) == '233248b38a1b3f21'


def test_the_published_averages_of_table_4_are_those_of_its_data_sets():
    rows = {cell.row for cell in paper_cells() if cell.table == 4}
    for row in rows:
        values = [cell.published['top-1'] for cell in paper_cells() if (cell.table, cell.row) == (4, row)]
        assert published_average('vit-b16', row) == pytest.approx(sum(values) / 3, abs=0.05)


def test_tiny_cells_stand_for_all_cells_that_have_a_counterpart():
    cells = tiny_cells()
    papers = [paper for cell in cells for paper in cell.papers]
    assert len(papers) == len(set(map(str, papers))) == sum(CELLS.values()) - sum(blocks is None for blocks in BLOCKS.values())
    frozen = [cell for cell in cells if not cell.papers]
    assert [(cell.table, cell.row, cell.backbone) for cell in frozen] == [
        (1, 'Frozen', 'swin-mini'), (1, 'Frozen', 'convnext-mini'), (2, 'Frozen', 'swin-mini'), (2, 'Frozen', 'convnext-mini'),
        (3, 'Frozen', 'swin-mini'), (3, 'Frozen', 'convnext-mini'), (4, 'Frozen', 'vit-mini')]
    assert Counter(cell.table for cell in cells) == {1: 14, 2: 14, 3: 14, 4: 8, 5: 4, 6: 3, 7: 7, 8: 3, 9: 3, 10: 2}
    names = {cell.name for cell in cells}
    assert len(names) == len(cells) - 5 and not any(cell.published for cell in cells)


@pytest.mark.parametrize('option, values, known', [
    ('--table', dict(tables=[11]), '1, 2, 3'), ('--row', dict(tables=[1], rows=['DoRA']), 'LoRA'),
    ('--row', dict(tables=[4], rows=['k579']), 'Full-tuning'), ('--backbone', dict(backbones=['resnet']), 'swin-b')])
def test_what_is_not_in_the_tables_is_named_with_what_is(option, values, known):
    with pytest.raises(InputError, match=f'{option}=.*choose among those.*{known}'):
        select(paper_cells(), **values)


def test_rows_and_backbones_are_chosen_in_any_spelling_and_by_the_papers_name():
    assert len(select(paper_cells(), [4], ['full', 'LORA'])) == 6
    chosen = select(tiny_cells(), [1], ['adaroute'], ['swin-l'])
    assert [(cell.backbone, len(cell.papers)) for cell in chosen] == [('swin-mini', 2)]


@pytest.mark.parametrize('table, backbone', [(1, 'swin-mini'), (2, 'convnext-mini'), (4, 'vit-mini')])
def test_tiny_sizes_come_nearest_to_adaroute(tiny, table, backbone):
    cells = {cell.row: cell for cell in tiny.cells if (cell.table, cell.backbone) == (table, backbone)}
    target = tiny.parameters(cells['AdaRoute'])
    assert tiny.adapter(cells['AdaRoute']) == dict(type='mmparax.AdaRoute', hidden_dim=16)
    for row, option in (('LoRA', 'rank'), ('AdaptFormer', 'hidden_dim'), ('LoRand', 'rank'), ('Mona', 'hidden_dim')):
        if row not in cells:
            assert backbone == 'convnext-mini' and row == 'LoRA'
            continue
        adapter, config = tiny.adapter(cells[row]), tiny.recipe(cells[row]).model.backbone
        here = abs(tiny.parameters(cells[row]) - target)
        assert here < 0.05 * target
        for width in (adapter[option] - 1, adapter[option] + 1):
            assert here <= abs(tiny.counts({**config, 'adapter': {**adapter, option: width}}) - target)
        if row == 'LoRand':
            assert adapter['branches'] == 2 and ('sites' in adapter) == (backbone == 'vit-mini')


def test_tiny_ablations_have_the_papers_options_at_a_small_width(tiny):
    cells = {(cell.table, cell.row): tiny.adapter(cell) for cell in tiny.cells if cell.table > 4}
    assert [cells[5, row]['hidden_dim'] for row in ('4L-40', '2L-72', 'L-128', 'L/2-192')] == [5, 9, 16, 24]
    assert [cells[6, row].get('layers_per_center') for row in ('18', '9', '3')] == [None, 2, 1]
    assert cells[10, 'sigmoid']['router_activation'] == 'sigmoid' and cells[7, 'k579+SA']['kernel_sizes'] == (5, 7, 9)
    assert all(adapter['layer_scale_init'] == 1e-5 for adapter in cells.values())


def test_a_tiny_config_is_as_long_as_wanted_and_can_be_read_again(tiny, tmp_path):
    from mmengine.config import Config
    cell = select(tiny.cells, [2], ['LoRA'])[0]
    tiny.write_config(cell, 3, tmp_path)
    cfg = Config.fromfile(tiny.config_file(cell, 3, tmp_path))
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 200 and cfg.param_scheduler[0].end == 25
    assert cfg.randomness == dict(seed=3) and cfg.default_hooks.checkpoint.interval == 50
    assert cfg.train_dataloader.dataset.data_root == tiny.data and cfg.val_evaluator.ann_file.startswith(tiny.data)
    assert cfg.model.backbone.adapter == tiny.adapter(cell)


@pytest.mark.parametrize('gpus, changed', [(4, {}), (1, {'train_dataloader.batch_size': 16}),
                                           (8, {'train_dataloader.batch_size': 2})])
def test_full_scale_keeps_the_recipes_batch(gpus, changed, tmp_path):
    scale = FullScale(ParameterCounts(tmp_path / 'counts.json'))
    cell = select(scale.cells, [1], ['AdaRoute'])[0]
    assert scale.options(cell, 2, gpus) == {'randomness.seed': 2, **changed}
    with pytest.raises(InputError, match='--gpus=3 is not allowed'):
        scale.options(cell, 0, 3)
    assert scale.best_by(cell) == 'mIoU' and scale.length(cell) == dict(iterations=160000, epochs=None)
    panoptic = select(scale.cells, [3])[0]
    assert scale.best_by(panoptic) is None and scale.length(panoptic) == dict(iterations=None, epochs=12)


def test_counts_are_kept_until_the_code_changes(tmp_path, monkeypatch):
    cache, cell = tmp_path / 'counts.json', select(paper_cells(), [1], ['AdaRoute'], ['swin-b'])[0]
    counts = ParameterCounts(cache)
    scale = FullScale(counts)
    assert scale.parameters(cell) == 5242992
    counts.save()
    assert ParameterCounts(cache).counts == counts.counts and len(counts.counts) == 1
    for name, other in (('mmparax.reproduce.counts.package_source', lambda *parts: b'other'), ('mmpretrain.__version__', '9')):
        with monkeypatch.context() as changed:
            changed.setattr(name, other)
            assert ParameterCounts(cache).counts == {}
    assert ParameterCounts(cache).counts
    cache.write_text('{')
    assert ParameterCounts(cache).counts == {}


def test_only_code_that_does_something_counts():
    assert code('def f():\n    "Doc."\n    return 1  # one\n') == code('"Module."\n\n\ndef f(): return 1\n')
    assert code('x = 1') != code('x = 2')


def test_tables_say_what_they_measure():
    assert set(TABLES) == set(CELLS) and TABLES[2].metrics[0] == 'AP^b' and len(TABLES[2].metrics) == 6
