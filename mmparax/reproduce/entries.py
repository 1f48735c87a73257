"""Every cell of the paper's Tables 1-10: where its config is and what was published for it."""
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from mmparax.errors import ParameterError

METHODS = {'Full-tuning': 'full', 'VPT': 'vpt', 'LoRA': 'lora', 'AdaptFormer': 'adaptformer', 'LoRand': 'lorand',
           'Mona': 'mona', 'AdaRoute': 'adaroute'}  # the paper's name -> in the names of configs
BACKBONES = {'swin-b': 'Swin-B', 'swin-l': 'Swin-L', 'convnext-b': 'ConvNeXt-B', 'convnext-l': 'ConvNeXt-L',
             'vit-b16': 'ViT-B/16'}
DATASETS = {'ade20k': 'ADE20K', 'coco': 'COCO', 'cifar100': 'CIFAR-100', 'svhn': 'SVHN', 'food101': 'Food-101'}
# Name in published.json -> column of mmparax.inference.metrics.
COLUMNS = {'mIoU': 'mIoU', 'AP_b': 'AP^b', 'AP_b50': 'AP^b_50', 'AP_b75': 'AP^b_75', 'AP_m': 'AP^m', 'AP_m50': 'AP^m_50',
           'AP_m75': 'AP^m_75', 'PQ': 'PQ', 'SQ': 'SQ', 'RQ': 'RQ'}
# Table -> rows in the paper's order, each with what its config's name has behind the default's.
ABLATIONS = {
    5: {'4L-40': 'experts4-dim40', '2L-72': 'experts2-dim72', 'L-128': '', 'L/2-192': 'experts-half-dim192'},
    6: {'18': '', '9': 'layers9', '6': 'layers6', '3': 'layers3'},
    7: {'k333': 'k333-nosa', 'k555': 'k555-nosa', 'k777': 'k777-nosa', 'k357': 'k357-nosa', 'k579': 'k579-nosa', 'k357+SA': '',
        'k579+SA': 'k579'},
    8: {'trunc_normal': '', 'kaiming_normal': 'kaiming-normal', 'kaiming_uniform': 'kaiming-uniform'},
    9: {'parallel': 'parallel', 'sequential_no_residual': 'no-residual', 'sequential_residual': ''},
    10: {'sigmoid': 'sigmoid', 'softmax': ''},
}
ABLATION = 'ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco'


@dataclass(frozen=True)
class Table:
    """What the cells of a table have in common: ``head`` is what comes first in the names of their configs."""
    number: int
    title: str
    task: str
    head: str
    metrics: Tuple[str, ...]


_DETECTION = ('AP^b', 'AP^b_50', 'AP^b_75', 'AP^m', 'AP^m_50', 'AP^m_75')
TABLES = {table.number: table for table in (
    Table(1, 'Semantic segmentation, UperNet on ADE20K', 'segmentation', 'upernet', ('mIoU', )),
    Table(2, 'Object detection and instance segmentation, Mask R-CNN on COCO', 'detection', 'mask-rcnn', _DETECTION),
    Table(3, 'Panoptic segmentation, Panoptic FPN on COCO', 'panoptic', 'panoptic-fpn', ('PQ', 'SQ', 'RQ')),
    Table(4, 'Image classification, ViT-B/16 with MAE weights', 'classification', '', ('top-1', )),
    *(Table(number, f'{title} (AdaRoute, Swin-B, Mask R-CNN on COCO)', 'detection', 'mask-rcnn', ('AP^b', 'AP^m'))
      for number, title in ((5, 'Experts per center and latent width'), (6, 'Blocks that share an expert center'),
                            (7, 'Kernel sizes and spatial aggregation (SA)'), (8, 'Start of the experts'),
                            (9, 'Layout of the dynamic convolutions'), (10, 'Activation of the router'))))}


@dataclass(frozen=True)
class Cell:
    """One result of a table.

    Attributes:
        table: its number.
        row: what ``--row`` calls it: the method, in an ablation the variant.
        backbone: a key of ``BACKBONES``; a small one at tiny scale.
        method: the paper's name.
        dataset: a key of ``DATASETS``; ``'scenes'`` at tiny scale.
        config: its config below ``configs/``; at tiny scale only a name.
        params_published: trained parameters of the backbone in millions, where the paper gives them.
        published: column -> percent.
        papers: at tiny scale, the cells of the paper in whose place it stands.
    """
    table: int
    row: str
    backbone: str
    method: str
    dataset: str
    config: str
    params_published: Optional[float] = None
    published: Mapping[str, float] = field(default_factory=dict)
    papers: Tuple['Cell', ...] = ()

    @property
    def task(self) -> str:
        return TABLES[self.table].task

    @property
    def metrics(self) -> Tuple[str, ...]:
        return TABLES[self.table].metrics

    @property
    def name(self) -> str:
        """Cells with one name are one run."""
        return Path(self.config).stem

    def __str__(self) -> str:
        return f'Table {self.table}, {self.backbone}, {self.row}' + (f', {self.dataset}' if self.table == 4 else '')


def published_numbers() -> Dict[str, Any]:
    """What the paper prints, by table."""
    return json.loads(Path(__file__).with_name('published.json').read_text(encoding='utf-8'))


def published_average(backbone: str, row: str) -> float:
    """Mean over the data sets of Table 4, in percent, as the paper prints it."""
    return published_numbers()['4'][backbone][row]['avg']


def paper_cells() -> List[Cell]:
    """All cells of Tables 1-10, in the paper's order."""
    published = published_numbers()
    folders = {1: ('semantic_segmentation', '4xb4-160k_ade20k-512x512'), 2: ('instance_segmentation', '4xb4-1x_coco'),
               3: ('panoptic_segmentation', '4xb4-1x_coco')}
    cells = []
    for number, (folder, recipe) in folders.items():
        for backbone, rows in published[str(number)].items():
            for row, numbers in rows.items():
                name = f'{TABLES[number].head}_{backbone}_{METHODS[row]}_{recipe}'
                cells.append(Cell(number, row, backbone, row, 'ade20k' if number == 1 else 'coco', f'{folder}/{name}.py',
                                  numbers['params_M'], _columns(numbers)))
    for backbone, rows in published['4'].items():
        for row, numbers in rows.items():
            name = f'classification/{backbone}_{METHODS[row]}_4xb256-100e'
            cells += [Cell(4, row, backbone, row, dataset, f'{name}_{dataset}.py', numbers['params_M'],
                           {'top-1': numbers[dataset]}) for dataset in ('cifar100', 'svhn', 'food101')]
    for number, rows in ABLATIONS.items():
        for (row, variant), numbers in zip(rows.items(), published[str(number)], strict=True):
            name = ABLATION + (f'_{variant}' if variant else '')
            cells.append(Cell(number, row, 'swin-b', 'AdaRoute', 'coco', f'ablations/{name}.py', numbers.get('params_M'),
                              _columns(numbers)))
    return cells


def _columns(numbers: Mapping[str, Any]) -> Dict[str, float]:
    return {column: numbers[name] for name, column in COLUMNS.items() if name in numbers}


def select(cells: Sequence[Cell], tables: Optional[Sequence[int]] = None, rows: Optional[Sequence[str]] = None,
           backbones: Optional[Sequence[str]] = None) -> List[Cell]:
    """Pick cells; None picks all. A small backbone may be called by the paper's backbones that it stands for, too.

    Raises:
        InputError: for a table, row or backbone that there is not among them.
    """
    chosen = list(cells)
    for option, wanted, names in (
            ('--table', tables, lambda cell: {cell.table}),
            ('--row', rows, lambda cell: {cell.row, METHODS.get(cell.row, cell.row)}),
            ('--backbone', backbones, lambda cell: {cell.backbone, *(paper.backbone for paper in cell.papers)})):
        if wanted is None:
            continue
        here = {str(name).lower(): str(name) for cell in chosen for name in sorted(names(cell), key=str, reverse=True)}
        for value in wanted:
            if str(value).lower() not in here:
                where = '' if option == '--table' else f" of table {', '.join(map(str, tables))}" if tables else ''
                raise ParameterError(option, value, f'choose among those{where}: {", ".join(dict.fromkeys(here.values()))}')
        keys = {str(value).lower() for value in wanted}
        chosen = [cell for cell in chosen if keys & {str(name).lower() for name in names(cell)}]
    return chosen
