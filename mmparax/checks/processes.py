"""Whether the processes of a run start alike."""
from mmengine.dist import all_gather_object, get_world_size
from torch import nn

from mmparax.errors import InputError
from mmparax.weights.digest import compute_digest


def check_common_start(model: nn.Module, iteration: int) -> None:
    """Check that all processes start at the same iteration with the same trainable weights.

    From there on they share gradients, and weights no more.

    Args:
        model: the model inside all wrappers.
        iteration: at which this process starts.

    Raises:
        InputError: in every process if one starts elsewhere.
    """
    if get_world_size() == 1:
        return
    trainable = ((name, value) for name, value in model.named_parameters() if value.requires_grad)
    starts = all_gather_object((iteration, compute_digest(trainable)))
    for rank, (other, weights) in enumerate(starts):
        if (other, weights) != starts[0]:
            what = f'at iteration {other}' if other != starts[0][0] else 'with other weights'
            raise InputError(f'process 0 starts at iteration {starts[0][0]}, and process {rank} {what}: they would train '
                             'different models. Every machine needs the same files: put the work dir on a file system '
                             'that they share, or resume from, or load_from, a checkpoint that each of them has.')
