"""The paper's tables at tiny scale: the same methods on synthetic scenes, with small backbones that ship with mmparax."""
import copy
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Optional

from mmengine.config import Config

from mmparax.config.shipped import read_config, resolve_config
from mmparax.reproduce.counts import ParameterCounts, nearest_width
from mmparax.reproduce.entries import ABLATIONS, METHODS, TABLES, Cell, paper_cells
from mmparax.reproduce.settings import content, data_options, fingerprint, length_options
from mmparax.weights.sources import locate

MINIS = {'swin-b': 'swin-mini', 'swin-l': 'swin-mini', 'convnext-b': 'convnext-mini', 'convnext-l': 'convnext-mini',
         'vit-b16': 'vit-mini'}
ITERATIONS = dict(segmentation=200, detection=200, panoptic=200, classification=400)
# Task -> files below configs/_base_ beside the model.
PARTS = dict(
    segmentation=('datasets/scenes_seg_128x128', 'schedules/scenes_seg', 'default_runtime_seg'),
    detection=('datasets/scenes_coco_instance_128x128', 'schedules/scenes_det', 'default_runtime_det'),
    panoptic=('datasets/scenes_coco_panoptic_128x128', 'schedules/scenes_panoptic', 'default_runtime_det'),
    classification=('datasets/scenes_crops_32x32', 'schedules/scenes_cls', 'default_runtime_cls'))
WIDTH, PAPERS_WIDTH = 16, 128  # of AdaRoute
WIDTHS = dict(LoRA='rank', AdaptFormer='hidden_dim', LoRand='rank', Mona='hidden_dim')  # the options that are fitted
LORAND_BRANCHES = 2
BLOCKS = {'layers9': 2, 'layers6': None, 'layers3': 1}  # Table 6: the small Swin's deepest stage has 4 blocks, not 18
FROZEN = 'Frozen'
RULES = (
    f'Sizes: AdaRoute has the latent width {WIDTH}. LoRA, AdaptFormer, LoRand ({LORAND_BRANCHES} branches) and Mona have the '
    "rank or width whose trained parameters in the backbone come nearest to AdaRoute's; VPT keeps its ten prompts. The other "
    'options of a method are those of its full-scale config; AdaRoute has its defaults in Tables 1-4, also where its '
    "full-scale config has others: layer scale and shortcut's scale in Table 2 with Swin-B, the router's width in Table 4. "
    f'In Tables 5-10 latent widths are those of the paper times {WIDTH}/{PAPERS_WIDTH}.',
    'Recipe: within a table all methods share iterations, learning rate, data and head, full fine-tuning and the frozen backbone '
    'included; nothing was tuned for any of them.',
    f'{FROZEN} (output norms and head train) is not in the paper.')
TABLE_RULES = {6: 'The deepest stage of the small Swin has 4 blocks instead of 18: row 9 is 2 blocks for a center, row 3 is '
                  'one, and row 6 has no counterpart.'}


def tiny_cells() -> List[Cell]:
    """The cells at tiny scale: backbones of one family share one, and so do Table 4's data sets."""
    groups: Dict[str, List[Cell]] = {}
    for cell in paper_cells():
        mini = MINIS[cell.backbone]
        if cell.table > 4:
            variant = ABLATIONS[cell.table][cell.row]
            if BLOCKS.get(variant, 1) is None:
                continue
            # Not in the table of methods: its adapters start near the identity.
            name = f'mask-rcnn_{mini}_ablation_{variant or "default"}'
        else:
            name = '_'.join(filter(None, (TABLES[cell.table].head, mini, METHODS[cell.method])))
        groups.setdefault(f'{cell.table} {cell.row} {name}', []).append(cell)
    cells: List[Cell] = []
    for key, papers in groups.items():
        first, name = papers[0], key.rpartition(' ')[2]
        here = Cell(first.table, first.row, MINIS[first.backbone], first.method, 'scenes', name, papers=tuple(papers))
        if first.table <= 4 and not any((cell.table, cell.backbone) == (here.table, here.backbone) for cell in cells):
            frozen = '_'.join(filter(None, (TABLES[first.table].head, here.backbone, 'frozen')))
            cells.append(Cell(first.table, FROZEN, here.backbone, FROZEN, 'scenes', frozen))
        cells.append(here)
    return cells


class TinyScale:
    """Makes the configs of the tiny cells.

    Args:
        counts: counts parameters.
        data: folder of the scenes.
        iterations: overrides those of ``ITERATIONS``.
    """
    name = 'tiny'

    def __init__(self, counts: Optional[ParameterCounts] = None, data: str = 'data/scenes', iterations: Optional[int] = None):
        self.counts, self.data, self.override = counts or ParameterCounts(), data, iterations
        self._adapters: Dict[str, Any] = {}
        self._recipes: Dict[str, Config] = {}

    @cached_property
    def cells(self) -> List[Cell]:
        return tiny_cells()

    def iterations(self, cell: Cell) -> int:
        return self.override or ITERATIONS[cell.task]

    def recipe(self, cell: Cell) -> Config:
        """Model, data and schedule, without an adapter."""
        model = '_'.join(filter(None, (TABLES[cell.table].head, cell.backbone)))
        if model not in self._recipes:
            files = [str(resolve_config(f'_base_/{part}.py')) for part in (f'models/{model}', *PARTS[cell.task])]
            self._recipes[model] = Config.fromstring(f'_base_ = {files!r}\n', '.py')
        return self._recipes[model]

    def adapter(self, cell: Cell) -> Optional[Dict[str, Any]]:
        """The adapter of a cell, in the size that the rules give it."""
        if cell.name not in self._adapters:
            self._adapters[cell.name] = self._sized(cell)
        return self._adapters[cell.name]

    def _sized(self, cell: Cell) -> Optional[Dict[str, Any]]:
        if cell.method == FROZEN:
            return dict(type='mmparax.Frozen')
        full = read_config(cell.papers[0].config).model.backbone.adapter
        adapter = None if full is None else full.to_dict()
        if cell.table > 4:
            adapter['hidden_dim'] = adapter.get('hidden_dim', PAPERS_WIDTH) * WIDTH // PAPERS_WIDTH
            if 'layers_per_center' in adapter:
                adapter['layers_per_center'] = BLOCKS[cell.name.rpartition('_')[2]]
        elif cell.method == 'AdaRoute':
            adapter = dict(type='mmparax.AdaRoute', hidden_dim=WIDTH)
        elif cell.method in WIDTHS:
            if cell.method == 'LoRand':
                adapter['branches'] = LORAND_BRANCHES
            backbone, option = self.recipe(cell).model.backbone, WIDTHS[cell.method]
            target = self.counts({**backbone, 'adapter': dict(type='mmparax.AdaRoute', hidden_dim=WIDTH)})
            adapter[option] = nearest_width(self.counts, backbone, adapter, option, target)
        return adapter

    def size(self, cell: Cell) -> str:
        """The width of a cell's adapter in words."""
        adapter = self.adapter(cell) or {}
        options = ('num_prompts', 'branches', 'rank', 'hidden_dim', *(['experts_per_layer', 'layers_per_center']
                                                                      if cell.table > 4 else []))
        return ', '.join(f'{name.replace("_", " ")} {adapter[name]}' for name in options if adapter.get(name) is not None)

    def parameters(self, cell: Cell) -> int:
        """Trained parameters of the backbone."""
        return self.counts({**self.recipe(cell).model.backbone, 'adapter': self.adapter(cell)})

    def config(self, cell: Cell, seed: int) -> Config:
        """The whole config of a run, with the scenes where they are by default."""
        cfg, iterations = copy.deepcopy(self.recipe(cell)), self.iterations(cell)
        cfg.merge_from_dict(length_options(iterations, interval=max(1, iterations // 4)))
        cfg.default_hooks.logger.interval = max(1, min(10, iterations // 4))
        cfg.randomness = dict(seed=seed)
        cfg.model.backbone.adapter = self.adapter(cell)
        return cfg

    def settings(self, cell: Cell, seed: int) -> Dict[str, Any]:
        """All that a result of the cell depends on, but for the code."""
        cfg, classes = self.config(cell, seed), Path(self.data) / 'classes.json'
        scenes = json.loads(classes.read_text(encoding='utf-8')) if classes.is_file() else {}
        base = locate(cfg.model.backbone.base_checkpoint).read_bytes()
        return dict(config=cell.name, seed=seed, iterations=self.iterations(cell), scenes=scenes.get('counts'),
                    fingerprint=fingerprint(content(cfg.to_dict()), content(scenes), base))

    def length(self, cell: Cell) -> Dict[str, Optional[int]]:
        """Iterations or epochs of the training."""
        return dict(iterations=self.iterations(cell), epochs=None)

    def config_file(self, cell: Cell, seed: int, folder: Path) -> Path:
        """Where the config of a run is; :meth:`write_config` puts it there."""
        return folder / f'{cell.name}.py'

    def write_config(self, cell: Cell, seed: int, folder: Path) -> None:
        """Write the config of a run, so that it can be read and run again."""
        cfg, path = self.config(cell, seed), self.config_file(cell, seed, folder)
        cfg.merge_from_dict(data_options(cfg, self.data))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'# {cell} at tiny scale, seed {seed}; written by tools/reproduce.py. To run it again:\n'
                        f'# python tools/train.py {path} --no-validate --work-dir ANOTHER_FOLDER\n{cfg.pretty_text}',
                        encoding='utf-8')

    def options(self, cell: Cell, seed: int, gpus: int) -> Dict[str, Any]:
        """What the command line adds to the config."""
        return {}

    def best_by(self, cell: Cell) -> Optional[str]:
        """None: the last checkpoint is evaluated."""
        return None

    validates = False
