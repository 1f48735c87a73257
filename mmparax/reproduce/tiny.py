"""The paper's tables at tiny scale: the same methods on synthetic scenes, with the mini backbones that ship with mmparax."""
import copy
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmparax.benchmark.mini_sizes import LORAND_BRANCHES, WIDTH, resize_adapter
from mmparax.benchmark.parameter_counts import ParameterCounter
from mmparax.config.shipped import read_config, resolve_config
from mmparax.reproduce.entries import ABLATIONS, METHODS, TABLES, TableEntry, list_paper_entries
from mmparax.reproduce.settings import build_data_options, build_length_options
from mmparax.utils.code_digest import compute_parts_digest, encode_content
from mmparax.weights.sources import locate

MINIS = {
    'swin-b': 'swin-mini', 'swin-l': 'swin-mini', 'convnext-b': 'convnext-mini', 'convnext-l': 'convnext-mini',
    'vit-b16': 'vit-mini'
}
ITERATIONS = dict(segmentation=200, detection=200, panoptic=200, classification=400)
# Task -> files below configs/_base_ beside the model.
PARTS = dict(segmentation=('datasets/scenes_seg_128x128', 'schedules/scenes_seg', 'default_runtime_seg'),
             detection=('datasets/scenes_coco_instance_128x128', 'schedules/scenes_det', 'default_runtime_det'),
             panoptic=('datasets/scenes_coco_panoptic_128x128', 'schedules/scenes_panoptic', 'default_runtime_det'),
             classification=('datasets/scenes_crops_32x32', 'schedules/scenes_cls', 'default_runtime_cls'))
PAPERS_WIDTH = 128  # AdaRoute's latent width
BLOCKS = {'layers9': 2, 'layers6': None, 'layers3': 1}  # Table 6: the mini Swin's deepest stage has 4 blocks, not 18
FROZEN = 'Frozen'
RULES = (
    f'Sizes: AdaRoute has the latent width {WIDTH}. LoRA, AdaptFormer, LoRand ({LORAND_BRANCHES} branches) and Mona have the '
    "rank or width whose trainable parameters in the backbone come nearest to AdaRoute's; VPT keeps its ten prompts. The other "
    'options of a method are those of its full-scale config; AdaRoute has its defaults in Tables 1-4, also where its '
    "full-scale config has others: layer scale and shortcut's scale in Table 2 with Swin-B, the router's width in Table 4. "
    f'In Tables 5-10 latent widths are those of the paper times {WIDTH}/{PAPERS_WIDTH}.',
    'Recipe: within a table all methods share iterations, learning rate, data and head, full fine-tuning and the frozen backbone '
    'included; nothing was tuned for any of them.', f'{FROZEN} (only output norms and head are trainable) is not in the paper.')
TABLE_RULES = {
    6: 'The deepest stage of the mini Swin has 4 blocks instead of 18: row 9 is 2 blocks for a center, row 3 is '
    'one, and row 6 has no counterpart.'
}


def list_tiny_entries() -> list[TableEntry]:
    """The entries at tiny scale: backbones of one family share one, and so do Table 4's data sets."""
    groups: dict[str, list[TableEntry]] = {}
    for entry in list_paper_entries():
        mini = MINIS[entry.backbone]
        if entry.table > 4:
            variant = ABLATIONS[entry.table][entry.row]
            if BLOCKS.get(variant, 1) is None:
                continue
            # Not named as AdaRoute of Table 2: the adapters of the ablations start near the identity.
            name = f'mask-rcnn_{mini}_ablation_{variant or "default"}'
        else:
            name = '_'.join(filter(None, (TABLES[entry.table].head, mini, METHODS[entry.method])))
        groups.setdefault(f'{entry.table} {entry.row} {name}', []).append(entry)
    entries: list[TableEntry] = []
    for key, papers in groups.items():
        first, name = papers[0], key.rpartition(' ')[2]
        here = TableEntry(first.table, first.row, MINIS[first.backbone], first.method, 'scenes', name, papers=tuple(papers))
        if first.table <= 4 and not any((entry.table, entry.backbone) == (here.table, here.backbone) for entry in entries):
            frozen = '_'.join(filter(None, (TABLES[first.table].head, here.backbone, 'frozen')))
            entries.append(TableEntry(first.table, FROZEN, here.backbone, FROZEN, 'scenes', frozen))
        entries.append(here)
    return entries


class TinyScale:
    """Composes the configs of the entries at tiny scale.

    Args:
        counter: counts parameters.
        data: folder of the scenes.
        iterations: overrides those of ``ITERATIONS``.

    Attributes:
        name: ``'tiny'``.
        validates: whether a training validates: not here.
    """
    name = 'tiny'
    validates = False

    def __init__(self, counter: ParameterCounter | None = None, data: str = 'data/scenes', iterations: int | None = None):
        self.counter, self.data, self.iterations = counter or ParameterCounter(), data, iterations
        self._adapters: dict[str, Any] = {}
        self._recipes: dict[str, Config] = {}

    @cached_property
    def entries(self) -> list[TableEntry]:
        return list_tiny_entries()

    def get_iterations(self, entry: TableEntry) -> int:
        return self.iterations or ITERATIONS[entry.task]

    def compose_recipe(self, entry: TableEntry) -> Config:
        """Model, data and schedule, without an adapter."""
        model = '_'.join(filter(None, (TABLES[entry.table].head, entry.backbone)))
        if model not in self._recipes:
            files = [str(resolve_config(f'_base_/{part}.py')) for part in (f'models/{model}', *PARTS[entry.task])]
            self._recipes[model] = Config.fromstring(f'_base_ = {files!r}\n', '.py')
        return self._recipes[model]

    def size_adapter(self, entry: TableEntry) -> dict[str, Any] | None:
        """Config of an entry's adapter, in the size that the rules give it."""
        if entry.name not in self._adapters:
            self._adapters[entry.name] = self._size_adapter(entry)
        return self._adapters[entry.name]

    def _size_adapter(self, entry: TableEntry) -> dict[str, Any] | None:
        if entry.method == FROZEN:
            return dict(type='mmparax.Frozen')
        full = read_config(entry.papers[0].config).model.backbone.adapter
        adapter = None if full is None else full.to_dict()
        if entry.table <= 4:
            return resize_adapter(self.counter, self.compose_recipe(entry).model.backbone, adapter)
        adapter['hidden_dim'] = adapter.get('hidden_dim', PAPERS_WIDTH) * WIDTH // PAPERS_WIDTH
        if 'layers_per_center' in adapter:
            adapter['layers_per_center'] = BLOCKS[entry.name.rpartition('_')[2]]
        return adapter

    def describe_size(self, entry: TableEntry) -> str:
        """The width of an entry's adapter in words."""
        adapter = self.size_adapter(entry) or {}
        options = ('num_prompts', 'branches', 'rank', 'hidden_dim',
                   *(['experts_per_layer', 'layers_per_center'] if entry.table > 4 else []))
        return ', '.join(f'{name.replace("_", " ")} {adapter[name]}' for name in options if adapter.get(name) is not None)

    def count_parameters(self, entry: TableEntry) -> int:
        """Trainable parameters of the backbone."""
        return self.counter.count({**self.compose_recipe(entry).model.backbone, 'adapter': self.size_adapter(entry)})

    def compose_config(self, entry: TableEntry, seed: int) -> Config:
        """The whole config of a run, with the scenes where they are by default."""
        cfg, iterations = copy.deepcopy(self.compose_recipe(entry)), self.get_iterations(entry)
        cfg.merge_from_dict(build_length_options(iterations, interval=max(1, iterations // 4)))
        cfg.default_hooks.logger.interval = max(1, min(10, iterations // 4))
        cfg.randomness = dict(seed=seed)
        cfg.model.backbone.adapter = self.size_adapter(entry)
        return cfg

    def collect_settings(self, entry: TableEntry, seed: int) -> dict[str, Any]:
        """All that a result of the entry depends on, except the code."""
        cfg, classes = self.compose_config(entry, seed), Path(self.data) / 'classes.json'
        scenes = json.loads(classes.read_text(encoding='utf-8')) if classes.is_file() else {}
        base = locate(cfg.model.backbone.base_checkpoint).read_bytes()
        return dict(config=entry.name, seed=seed, iterations=self.get_iterations(entry), scenes=scenes.get('counts'),
                    digest=compute_parts_digest(encode_content(cfg.to_dict()), encode_content(scenes), base))

    def get_length(self, entry: TableEntry) -> dict[str, int | None]:
        """Iterations or epochs of the training."""
        return dict(iterations=self.get_iterations(entry), epochs=None)

    def locate_config(self, entry: TableEntry, seed: int, folder: Path) -> Path:
        """Where the config of a run is; :meth:`write_config` puts it there."""
        return folder / f'{entry.name}.py'

    def write_config(self, entry: TableEntry, seed: int, folder: Path) -> None:
        """Write the config of a run, so that it can be read and run again."""
        cfg, path = self.compose_config(entry, seed), self.locate_config(entry, seed, folder)
        cfg.merge_from_dict(build_data_options(cfg, self.data))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'# {entry} at tiny scale, seed {seed}; written by tools/reproduce.py. To run it again:\n'
            f'# python tools/train.py {path} --no-validate --work-dir ANOTHER_FOLDER\n{cfg.pretty_text}', encoding='utf-8')

    def build_options(self, entry: TableEntry, seed: int, gpus: int) -> dict[str, Any]:
        """What the command line adds to the config: nothing."""
        return {}

    def get_best_metric(self, entry: TableEntry) -> str | None:
        """None: the last checkpoint is evaluated."""
        return None
