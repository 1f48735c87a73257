"""Whether the frozen parameters of a model stay as they are."""
from torch import nn

from mmparax.backbones.adapted import find_adapted_backbones
from mmparax.checkpoint.fingerprint import describe_frozen, fingerprint
from mmparax.errors import TrainingError
from mmparax.utils.names import join_name


class FrozenWatch:
    """Remembers the frozen parameters of a model and tells whether they are still the same.

    ``check`` compares version counters, which every in-place change raises and which cost nothing; ``check_bytes`` reads
    every byte of the frozen base.

    Args:
        model: holds an adapted backbone whose base is loaded.

    Attributes:
        fingerprint: of the frozen base; None if nothing of the backbone is frozen.
    """

    def __init__(self, model: nn.Module):
        self.frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self.versions = {name: (parameter._version, parameter.data_ptr()) for name, parameter in self.frozen.items()}
        self.described = describe_frozen(model)
        self.fingerprint = fingerprint(model, self.described)

    def check(self, when: str) -> None:
        """Check that no frozen parameter was written to, replaced or made trainable.

        Args:
            when: for the errors, such as ``'by iteration 7'``.

        Raises:
            TrainingError: naming the first that was.
        """
        changed = [
            name for name, parameter in self.frozen.items() if (parameter._version, parameter.data_ptr()) != self.versions[name]
        ]
        if changed:
            raise TrainingError(f'the frozen parameter {changed[0]} was changed {when}, and {len(changed) - 1} more of '
                                f'{len(self.frozen)}: a hook or the training step writes to it.')
        thawed = [name for name, parameter in self.frozen.items() if parameter.requires_grad]
        if thawed:
            raise TrainingError(f'{thawed[0]} was frozen and is not any more ({when}), nor are {len(thawed) - 1} more: '
                                'something sets requires_grad after the model was built, when the optimizer no longer sees it.')

    def check_bytes(self, model: nn.Module) -> None:
        """Check that the frozen base has the bytes that it had at the start.

        Raises:
            TrainingError: if it has others.
        """
        changed = [
            join_name(owner, name) for owner, described in describe_frozen(model).items() for name, text in described.items()
            if text != self.described[owner].get(name)
        ]
        if changed:
            raise TrainingError(f'the frozen base is not what it was at the start of the run: {changed[0]} has other bytes, and '
                                f'{len(changed) - 1} more have: something wrote to them past autograd, through .data.')


def check_trainable(model: nn.Module) -> None:
    """Check that the parameters of each backbone are trainable or frozen as its method says.

    Raises:
        TrainingError: naming the first that is not.
    """
    wrong = []
    for owner, backbone in find_adapted_backbones(model):
        frozen = backbone.frozen_parameters()
        wrong += [
            join_name(owner, name) for name, parameter in backbone.named_parameters()
            if backbone.method is not None and (name in frozen) == parameter.requires_grad
        ]
    if wrong:
        raise TrainingError(f'{wrong[0]} and {len(wrong) - 1} more are trainable or frozen against the method')
