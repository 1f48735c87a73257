"""The paper's tables as the paper ran them: the shipped configs on the paper's data."""
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmparax.benchmark.parameter_counts import ParameterCounter
from mmparax.config.shipped import read_config, resolve_config
from mmparax.errors import ParameterError
from mmparax.reproduce.entries import TableEntry, list_paper_entries
from mmparax.utils.code_digest import compute_parts_digest, encode_content


class FullScale:
    """Reads the configs of the paper's table entries.

    Args:
        counter: counts parameters.

    Attributes:
        name: ``'full'``.
        validates: whether a training validates: it does.
    """
    name = 'full'
    validates = True

    def __init__(self, counter: ParameterCounter | None = None):
        self.counter = counter or ParameterCounter()
        self._configs: dict[str, Config] = {}

    @cached_property
    def entries(self) -> list[TableEntry]:
        return list_paper_entries()

    def get_config(self, entry: TableEntry) -> Config:
        if entry.config not in self._configs:
            self._configs[entry.config] = read_config(entry.config)
        return self._configs[entry.config]

    def count_parameters(self, entry: TableEntry) -> int:
        """Trainable parameters of the backbone."""
        return self.counter.count(self.get_config(entry).model.backbone)

    def collect_settings(self, entry: TableEntry, seed: int) -> dict[str, Any]:
        """All that a result depends on, except the code; not the number of GPUs, as the batch is always the recipe's."""
        return dict(config=entry.name, seed=seed, digest=compute_parts_digest(encode_content(self.get_config(entry).to_dict())))

    def get_length(self, entry: TableEntry) -> dict[str, int | None]:
        """Iterations or epochs of the training."""
        loop = self.get_config(entry).train_cfg
        return dict(iterations=loop.get('max_iters'), epochs=loop.get('max_epochs'))

    def locate_config(self, entry: TableEntry, seed: int, folder: Path) -> Path:
        """The shipped config."""
        return resolve_config(entry.config)

    def write_config(self, entry: TableEntry, seed: int, folder: Path) -> None:
        """Nothing: the shipped config is run as it is."""

    def build_options(self, entry: TableEntry, seed: int, gpus: int) -> dict[str, Any]:
        """What the command line adds to the config: the seed, and another batch on each GPU if there are not four.

        Raises:
            ParameterError: if the recipe's batch cannot be divided among the GPUs.
        """
        cfg, options = self.get_config(entry), {'randomness.seed': seed}
        batch = cfg.auto_scale_lr.base_batch_size
        if batch % gpus:
            raise ParameterError('gpus', gpus, f"it must divide the recipe's batch of {batch}")
        if cfg.train_dataloader.batch_size * gpus != batch:
            options['train_dataloader.batch_size'] = batch // gpus
        return options

    def get_best_metric(self, entry: TableEntry) -> str | None:
        """The metric, more is better, by which the recipe chooses the checkpoint to evaluate; None: it takes the last."""
        return self.get_config(entry).default_hooks.checkpoint.get('save_best')
