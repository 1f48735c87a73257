"""The paper's tables as the paper ran them: the shipped configs on the paper's data."""
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Optional

from mmengine.config import Config

from mmparax.config.shipped import read_config, resolve_config
from mmparax.errors import ParameterError
from mmparax.reproduce.counts import ParameterCounts
from mmparax.reproduce.entries import Cell, paper_cells
from mmparax.reproduce.settings import content, fingerprint


class FullScale:
    """Reads the configs of the paper's cells.

    Args:
        counts: counts parameters.
    """
    name = 'full'

    def __init__(self, counts: Optional[ParameterCounts] = None):
        self.counts = counts or ParameterCounts()
        self._configs: Dict[str, Config] = {}

    @cached_property
    def cells(self) -> List[Cell]:
        return paper_cells()

    def config(self, cell: Cell) -> Config:
        if cell.config not in self._configs:
            self._configs[cell.config] = read_config(cell.config)
        return self._configs[cell.config]

    def parameters(self, cell: Cell) -> int:
        """Trained parameters of the backbone."""
        return self.counts(self.config(cell).model.backbone)

    def settings(self, cell: Cell, seed: int) -> Dict[str, Any]:
        """All that a result depends on, but for the code; not the number of GPUs, as the batch is always the recipe's."""
        return dict(config=cell.name, seed=seed, fingerprint=fingerprint(content(self.config(cell).to_dict())))

    def length(self, cell: Cell) -> Dict[str, Optional[int]]:
        """Iterations or epochs of the training."""
        loop = self.config(cell).train_cfg
        return dict(iterations=loop.get('max_iters'), epochs=loop.get('max_epochs'))

    def config_file(self, cell: Cell, seed: int, folder: Path) -> Path:
        """The shipped config."""
        return resolve_config(cell.config)

    def write_config(self, cell: Cell, seed: int, folder: Path) -> None:
        """Nothing: the shipped config is run as it is."""

    def options(self, cell: Cell, seed: int, gpus: int) -> Dict[str, Any]:
        """What the command line adds to the config: the seed, and another batch on each GPU if there are not four.

        Raises:
            InputError: if the recipe's batch cannot be divided among the GPUs.
        """
        cfg, options = self.config(cell), {'randomness.seed': seed}
        batch = cfg.auto_scale_lr.base_batch_size
        if batch % gpus:
            raise ParameterError('--gpus', gpus, f"it must divide the recipe's batch of {batch}")
        if cfg.train_dataloader.batch_size * gpus != batch:
            options['train_dataloader.batch_size'] = batch // gpus
        return options

    def best_by(self, cell: Cell) -> Optional[str]:
        """The metric, more is better, by which the recipe chooses the checkpoint to evaluate; None: it takes the last."""
        return self.config(cell).default_hooks.checkpoint.get('save_best')

    validates = True
