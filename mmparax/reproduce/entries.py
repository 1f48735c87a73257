"""The entries of the paper's Tables 1-10: each with its config and its published numbers."""
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmparax.errors import ParameterError

METHODS = {
    'Full-tuning': 'full', 'VPT': 'vpt', 'LoRA': 'lora', 'AdaptFormer': 'adaptformer', 'LoRand': 'lorand', 'Mona': 'mona',
    'AdaRoute': 'adaroute'
}  # the paper's name -> in the names of configs
BACKBONES = {
    'swin-b': 'Swin-B', 'swin-l': 'Swin-L', 'convnext-b': 'ConvNeXt-B', 'convnext-l': 'ConvNeXt-L', 'vit-b16': 'ViT-B/16'
}
DATASETS = {'ade20k': 'ADE20K', 'coco': 'COCO', 'cifar100': 'CIFAR-100', 'svhn': 'SVHN', 'food101': 'Food-101'}
# Name in published.json -> column of mmparax.inference.metrics.
COLUMNS = {
    'mIoU': 'mIoU', 'AP_b': 'AP^b', 'AP_b50': 'AP^b_50', 'AP_b75': 'AP^b_75', 'AP_m': 'AP^m', 'AP_m50': 'AP^m_50',
    'AP_m75': 'AP^m_75', 'PQ': 'PQ', 'SQ': 'SQ', 'RQ': 'RQ'
}
# Table -> rows in the paper's order, each with what its config's name has behind the default's.
ABLATIONS = {
    5: {'4L-40': 'experts4-dim40', '2L-72': 'experts2-dim72', 'L-128': '', 'L/2-192': 'experts-half-dim192'},
    6: {'18': '', '9': 'layers9', '6': 'layers6', '3': 'layers3'},
    7: {
        'k333': 'k333-nosa', 'k555': 'k555-nosa', 'k777': 'k777-nosa', 'k357': 'k357-nosa', 'k579': 'k579-nosa', 'k357+SA': '',
        'k579+SA': 'k579'
    },
    8: {'trunc_normal': '', 'kaiming_normal': 'kaiming-normal', 'kaiming_uniform': 'kaiming-uniform'},
    9: {'parallel': 'parallel', 'sequential_no_residual': 'no-residual', 'sequential_residual': ''},
    10: {'sigmoid': 'sigmoid', 'softmax': ''},
}
ABLATION = 'ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco'


@dataclass(frozen=True)
class PaperTable:
    """What the entries of a table have in common.

    Attributes:
        number: of the table in the paper.
        title: what the table is about.
        task: a key of ``ITERATIONS`` in :mod:`mmparax.reproduce.tiny`.
        head: what comes first in the names of the configs; '' for classification.
        metrics: columns, as :mod:`mmparax.inference.metrics` names them.
    """
    number: int
    title: str
    task: str
    head: str
    metrics: tuple[str, ...]


_DETECTION = ('AP^b', 'AP^b_50', 'AP^b_75', 'AP^m', 'AP^m_50', 'AP^m_75')
TABLES = {
    table.number: table for table in (
        PaperTable(1, 'Semantic segmentation, UperNet on ADE20K', 'segmentation', 'upernet', ('mIoU', )),
        PaperTable(2, 'Object detection and instance segmentation, Mask R-CNN on COCO', 'detection', 'mask-rcnn', _DETECTION),
        PaperTable(3, 'Panoptic segmentation, Panoptic FPN on COCO', 'panoptic', 'panoptic-fpn', ('PQ', 'SQ', 'RQ')),
        PaperTable(4, 'Image classification, ViT-B/16 with MAE weights', 'classification', '', ('top-1', )),
        *(PaperTable(number, f'{title} (AdaRoute, Swin-B, Mask R-CNN on COCO)', 'detection', 'mask-rcnn', ('AP^b', 'AP^m'))
          for number, title in ((5, 'Experts per center and latent width'), (6, 'Blocks that share an expert center'),
                                (7, 'Kernel sizes and spatial aggregation (SA)'), (8, 'Start of the experts'),
                                (9, 'Layout of the dynamic convolutions'), (10, 'Activation of the router'))))
}


@dataclass(frozen=True)
class TableEntry:
    """One result of a table of the paper.

    Attributes:
        table: number of the table.
        row: the method, in an ablation the variant.
        backbone: a key of ``BACKBONES``; a mini backbone at tiny scale.
        method: the paper's name.
        dataset: a key of ``DATASETS``; ``'scenes'`` at tiny scale.
        config: its config below ``configs/``; at tiny scale only a name.
        params_published: trainable parameters of the backbone in millions, where the paper gives them.
        published: column -> percent.
        papers: at tiny scale, the entries of the paper that it stands for.
    """
    table: int
    row: str
    backbone: str
    method: str
    dataset: str
    config: str
    params_published: float | None = None
    published: Mapping[str, float] = field(default_factory=dict)
    papers: tuple['TableEntry', ...] = ()

    @property
    def task(self) -> str:
        return TABLES[self.table].task

    @property
    def metrics(self) -> tuple[str, ...]:
        return TABLES[self.table].metrics

    @property
    def name(self) -> str:
        """Entries with one name are one run."""
        return Path(self.config).stem

    def __str__(self) -> str:
        return f'Table {self.table}, {self.backbone}, {self.row}' + (f', {self.dataset}' if self.table == 4 else '')


def read_published_numbers() -> dict[str, Any]:
    """What the paper prints, by table."""
    return json.loads(Path(__file__).with_name('published.json').read_text(encoding='utf-8'))


def read_published_average(backbone: str, row: str) -> float:
    """Mean over the data sets of Table 4, in percent, as the paper prints it."""
    return read_published_numbers()['4'][backbone][row]['avg']


def list_paper_entries() -> list[TableEntry]:
    """All entries of Tables 1-10, in the paper's order."""
    published = read_published_numbers()
    folders = {
        1: ('semantic_segmentation', '4xb4-160k_ade20k-512x512'), 2: ('instance_segmentation', '4xb4-1x_coco'),
        3: ('panoptic_segmentation', '4xb4-1x_coco')
    }
    entries = []
    for number, (folder, recipe) in folders.items():
        for backbone, rows in published[str(number)].items():
            for row, numbers in rows.items():
                name = f'{TABLES[number].head}_{backbone}_{METHODS[row]}_{recipe}'
                dataset = 'ade20k' if number == 1 else 'coco'
                entries.append(
                    TableEntry(number, row, backbone, row, dataset, f'{folder}/{name}.py', numbers['params_M'],
                               _pick_columns(numbers)))
    for backbone, rows in published['4'].items():
        for row, numbers in rows.items():
            name = f'classification/{backbone}_{METHODS[row]}_4xb256-100e'
            entries += [
                TableEntry(4, row, backbone, row, dataset, f'{name}_{dataset}.py', numbers['params_M'],
                           {'top-1': numbers[dataset]}) for dataset in ('cifar100', 'svhn', 'food101')
            ]
    for number, rows in ABLATIONS.items():
        for (row, variant), numbers in zip(rows.items(), published[str(number)], strict=True):
            name = ABLATION + (f'_{variant}' if variant else '')
            entries.append(
                TableEntry(number, row, 'swin-b', 'AdaRoute', 'coco', f'ablations/{name}.py', numbers.get('params_M'),
                           _pick_columns(numbers)))
    return entries


def _pick_columns(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {column: numbers[name] for name, column in COLUMNS.items() if name in numbers}


def select_entries(entries: Sequence[TableEntry], table: Sequence[int] | None = None, row: Sequence[str] | None = None,
                   backbone: Sequence[str] | None = None) -> list[TableEntry]:
    """Pick entries.

    Args:
        entries: to pick from.
        table: numbers of tables; None for all.
        row: methods by the paper's or the configs' name, or variants of an ablation; None for all.
        backbone: a mini backbone may also be called by the paper's backbones that it stands for; None for all.

    Raises:
        ParameterError: for a table, row or backbone that there is not among them.
    """
    chosen = list(entries)
    for parameter, wanted, get_names in (('table', table, lambda entry: {entry.table}),
                                         ('row', row, lambda entry: {entry.row, METHODS.get(entry.row, entry.row)}),
                                         ('backbone', backbone,
                                          lambda entry: {entry.backbone, *(paper.backbone for paper in entry.papers)})):
        if wanted is None:
            continue
        known = {str(name).lower(): str(name) for entry in chosen for name in sorted(get_names(entry), key=str, reverse=True)}
        for value in wanted:
            if str(value).lower() not in known:
                where = '' if parameter == 'table' or not table else f" of table {', '.join(map(str, table))}"
                raise ParameterError(parameter, value, f'choose among those{where}: {", ".join(dict.fromkeys(known.values()))}')
        keys = {str(value).lower() for value in wanted}
        chosen = [entry for entry in chosen if keys & {str(name).lower() for name in get_names(entry)}]
    return chosen
