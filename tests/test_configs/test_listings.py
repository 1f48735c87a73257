"""The README's tables, with that of a folder's own page, and the metafiles list every config, with the paper's numbers as
published."""
import re

import pytest
from mmengine.hub import get_config
from mmengine.infer import BaseInferencer

from helpers.config_files import CONFIGS, LEAVES, load, metadata
from mmparax.reproduce.entries import list_paper_entries

ROOT = CONFIGS.parent
README = (ROOT / 'README.md').read_text()
BOXES = 'object_detection'  # its table is in its own page
ENTRIES = {}
for found in list_paper_entries():
    ENTRIES.setdefault(found.config, []).append(found)
# Columns of the metafiles, by OpenMMLab's habit -> those of the tables.
METRICS = {
    'box AP': 'AP^b', 'box AP50': 'AP^b_50', 'box AP75': 'AP^b_75', 'mask AP': 'AP^m', 'mask AP50': 'AP^m_50',
    'mask AP75': 'AP^m_75', 'Top 1 Accuracy': 'top-1'
}
# What was measured: config -> start of its row in the README.
MEASURED = {
    'upernet_swin-mini_frozen_1xb8-500_scenes-128x128': '| Frozen (head only) |',
    'upernet_swin-mini_adaroute_1xb8-500_scenes-128x128': '| AdaRoute |',
    'upernet_swin-mini_full_1xb8-500_scenes-128x128': '| full fine-tuning |',
    'mask-rcnn_convnext-mini_adaroute_1xb8-400_scenes-128x128': '| `detection` |',
    'panoptic-fpn_swin-mini_adaroute_1xb8-300_scenes-128x128': '| `panoptic` |',
    'vit-mini_adaroute_1xb32-800_scenes-32x32': '| `classification` |',
}


def readme_rows():
    """Config -> its row as {column: cell}; the columns 50 and 75 get the metric before them."""
    rows, header = {}, []
    page = (CONFIGS / BOXES / 'README.md').read_text().replace('](', f'](configs/{BOXES}/')
    for line in (README + page).splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        link = re.match(r'\| \[[^]]*\]\(configs/(\S+\.py)\)', line)
        if cells[0] == 'config':
            names = [cell.split(',')[0] if 'published' in cell and 'parameters' not in cell else cell for cell in cells]
            header = []
            for name in names:
                base = next((one for one in reversed(header) if one in ('AP^b', 'AP^m')), '')
                header.append(f'{base}_{name}' if name in ('50', '75') else name)
        elif link:
            assert link[1] not in rows and len(cells) == len(header), line
            rows[link[1]] = dict(zip(header, cells))
    return rows


ROWS = readme_rows()


@pytest.mark.parametrize('path', LEAVES, ids=str)
def test_readme_and_metafile_have_the_config(path):
    row, entry = ROWS[str(path)], metadata()[str(path)]
    meta, cells = entry['Metadata'], ENTRIES.get(str(path), [])
    assert row['parameters, built'] == f"{meta['Trainable Parameters in Backbone'] / 1e6:.3f}"
    params = next((cell.params_published for cell in cells if cell.params_published), None)
    assert meta.get('Published Trainable Parameters in Backbone (M)') == params
    assert row.get('parameters, published', '–') == ('–' if params is None else str(params))
    assert re.fullmatch(r'not run|[–\d]\S*( [–\d]\S*)*', row.get('measured here', 'not run'))  # nothing, or numbers
    for cell in cells:
        assert {metric: row[metric] for metric in cell.metrics} == {name: str(value) for name, value in cell.published.items()}
    cfg = load(path)
    assert meta.get('Epochs', meta.get('Iterations')) == cfg.train_cfg['max_epochs' if 'Epochs' in meta else 'max_iters']
    gpus, batch = map(int, re.search(r'_(\d+)xb(\d+)-', path.stem).groups())
    assert cfg.train_dataloader.batch_size == batch
    assert meta['Batch Size'] == gpus * batch * cfg.optim_wrapper.get('accumulative_counts', 1)
    assert entry['Name'] == path.stem and 'Weights' not in entry


@pytest.mark.parametrize('path', LEAVES, ids=str)
def test_metafile_says_where_its_results_are_from(path):
    cells, found = ENTRIES.get(str(path), []), {}
    for result in metadata()[str(path)].get('Results', []):
        found.setdefault(result['Source'],
                         {}).update({METRICS.get(name, name): value for name, value in result['Metrics'].items()})
    if cells:
        tables = sorted(cell.table for cell in cells)
        source = f'Table {tables[0]}' if len(tables) == 1 else f'Tables {tables[0]}-{tables[-1]}'
        assert all({f'published ({source})': dict(cell.published)} == found for cell in cells)
    elif path.stem in MEASURED:
        (source, metrics), = found.items()
        line, = [line for line in README.splitlines() if line.startswith(MEASURED[path.stem])]
        assert source.startswith('measured here (') and metrics
        assert all(re.search(rf'\b{value}\b', line) for value in metrics.values())
    else:
        assert not found


def test_nothing_else_is_listed():
    assert set(ROWS) == set(metadata()) == {str(path) for path in LEAVES}
    assert set(ENTRIES) <= set(ROWS)
    names = [entry['Name'] for entry in metadata().values()]
    assert len(set(names)) == len(names)
    collections = set(re.findall(r'^  - Name: (.*)$', (CONFIGS / 'metafile.yml').read_text(), re.M))
    assert {entry['In Collection'] for entry in metadata().values()} == collections


def test_mmengine_finds_configs_by_the_metafiles():
    name = 'ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco_k579.py'
    assert get_config(f'mmparax::{name}').model.backbone.adapter.kernel_sizes == (5, 7, 9)
    assert sorted(BaseInferencer.list_models(
        'mmparax', 'vit-b16_mona')) == [f'vit-b16_mona_4xb256-100e_{data}' for data in ('cifar100', 'food101', 'svhn')]
