"""Whether batch norm layers see enough values: one per channel has no variance."""
from typing import Any

from mmengine.dataset import InfiniteSampler
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmparax.errors import InputError

REMEDY = ('Give more images to a process (train_dataloader.batch_size), use group norm there '
          "(norm_cfg=dict(type='GN', num_groups=32)), or synchronise it over several GPUs (type='SyncBN')")


class NormWatch:
    """Sees, while batches run, from how many values each batch norm layer takes its statistics.

    Args:
        model: whose layers are watched until :meth:`stop`.
        num_processes: over which synchronised layers take their statistics.
        synchronised: whether layers that are plain here will be synchronised in the run.
    """

    def __init__(self, model: nn.Module, num_processes: int = 1, synchronised: bool = False):
        self.images = 0  # of the batch that runs
        self.pooled: list[str] = []  # layers with one value an image
        self._handles = [
            module.register_forward_pre_hook(self._make_hook(name)) for name, module in model.named_modules() if
            isinstance(module, _BatchNorm) and not (num_processes > 1 and (synchronised or isinstance(module, nn.SyncBatchNorm)))
        ]

    def _make_hook(self, name: str) -> Any:

        def look(module: nn.Module, inputs: tuple) -> None:
            if not module.training or not inputs or not inputs[0].ndim >= 2:
                return
            shape = inputs[0].shape
            values = shape[0] * shape[2:].numel()
            if values == 1:
                raise InputError(f'{name} is a batch norm that sees one value per channel, of one image, and so no variance. '
                                 f'{REMEDY}.')
            if values == shape[0] == self.images and name not in self.pooled:
                self.pooled.append(name)

        return look

    def stop(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def check_last_batch(self, left: int) -> None:
        """Check that no layer will see a single value in the last batch of an epoch.

        Args:
            left: images in it, of a process.

        Raises:
            InputError: naming the first layer.
        """
        if left == 1 and self.pooled:
            raise InputError(
                f'{self.pooled[0]} is a batch norm that takes one value an image, and the last batch of an epoch has one '
                f'image: it would stop the run there. Set train_dataloader.drop_last=True or another batch_size. {REMEDY}.')


def count_last_batch(loader: Any, num_processes: int = 1) -> int:
    """Number of images in the smallest batch of an epoch, of one process; 0 if it cannot be told.

    Args:
        loader: a dataloader.
        num_processes: that will share its data set; its sampler may be that of one.
    """
    size, sampler = getattr(loader, 'batch_size', None), getattr(loader, 'sampler', None)
    while hasattr(sampler, 'wrapped'):
        sampler = sampler.wrapped
    if size is None or loader.drop_last or isinstance(sampler, InfiniteSampler) or not hasattr(sampler, '__len__'):
        return size or 0
    return -(-len(sampler) // num_processes) % size or size


def count_images(batch: Any) -> int:
    """Number of images of a batch; 0 if it cannot be told."""
    inputs = batch.get('inputs') if isinstance(batch, dict) else None
    return len(inputs) if hasattr(inputs, '__len__') else 0
