"""The base of an adapted backbone: which file gives it, which checkpoints fit it, and its fingerprint."""
import logging
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmparax.adapters.base import Method
from mmparax.backbones.block import find_adapter_modules
from mmparax.backbones.roles import Role
from mmparax.errors import InputError, ParameterError, RandomBaseError
from mmparax.utils.names import add_prefix, strip_prefix
from mmparax.weights.claims import CHECKED, CLAIM, ORIGINS, check_claimed_fingerprint, read_origins
from mmparax.weights.digest import combine_descriptions, describe_tensor
from mmparax.weights.layouts import find_layout, find_option, find_prefix
from mmparax.weights.matching import check_keys, check_same_base, copy_base, is_ignorable
from mmparax.weights.reader import read_weights
from mmparax.weights.sources import fetch, locate


class BaseSource(Enum):
    """Where the weights of a base came from."""
    FILE = 'file'  # base_checkpoint: checkpoints need not hold the base
    CHECKPOINT = 'checkpoint'  # a checkpoint that held the whole base
    RANDOM = 'random'  # nowhere, on request (allow_random_base)


class BaseWeights(BaseModule):
    """The part of an adapted backbone that loads the base, once, and never lets a random one run unnoticed.

    Class attributes:
        family: name of the family.
        signature: pattern of a key that every base checkpoint of the family has, and no other.

    Attributes:
        base_checkpoint: path or URL of the pre-trained weights, or None.
        base_source: where the base came from; None as long as it has no weights.
        method: what the backbone is adapted by; None for full fine-tuning.
        origins: name in the base checkpoint -> [description of the tensor there, description of what this model made of it];
            only of tensors that are not as in the file: interpolated, trained (then the second is None), or left out.
        merged: whether the adapters are a part of the frozen weights for now (:mod:`mmparax.deploy.merging`).
        shared: whether other models run on the same base (:class:`mmparax.AdapterBank`).
    """
    family: ClassVar[str]
    signature: ClassVar[str]
    base_checkpoint: str | None
    base_source: BaseSource | None
    method: Method | None
    origins: Mapping[str, Sequence[str | None]] = MappingProxyType({})
    merged: bool = False
    shared: bool = False
    _roles: dict[str, Role]

    @staticmethod
    def convert_base(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn the weights of any known base checkpoint of the family into the layout of upstream's class."""
        raise NotImplementedError

    def fit_base(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Change weights of the right layout that depend on the size of the input; by default none."""
        return weights

    # ---- its parts ----

    def parameter_roles(self) -> dict[str, Role]:
        """Name of each parameter -> its role."""
        return {name: self._roles[name] for name, _ in self.named_parameters()}

    def names_of(self, *roles: Role) -> list[str]:
        """Names of the parameters and buffers of some roles in the state dict."""
        return [name for name, role in self._roles.items() if role in roles]

    def parameters_of(self, *roles: Role) -> dict[str, nn.Parameter]:
        """Name -> parameter of some roles."""
        return {name: parameter for name, parameter in self.named_parameters() if self._roles[name] in roles}

    def frozen_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of the frozen base; empty under full fine-tuning."""
        return {} if self.method is None else self.parameters_of(Role.BASE)

    def frozen_names(self) -> list[str]:
        """Names of the frozen base's parameters and buffers in the state dict; none under full fine-tuning."""
        return [] if self.method is None else self.names_of(Role.BASE)

    # ---- loading from base_checkpoint ----

    def load_base(self) -> None:
        """Load the base from ``base_checkpoint``, all of it or nothing.

        Raises:
            MissingFileError: if there is no such file and it cannot be fetched.
            InputError: without ``base_checkpoint``, for an unreadable file, or if keys are missing, unexpected or of another
                shape.
        """
        self.check_unmerged('load its base')
        self._check_unshared('load a base')
        if self.base_checkpoint is None:
            raise ParameterError('base_checkpoint', None, 'it must be the path or URL of the pre-trained weights to load')
        given = read_weights(fetch(self.base_checkpoint))
        families, layout = find_families(given), find_layout(given)
        if families and self.family not in families and layout is None:
            raise ParameterError(
                'base_checkpoint', self.base_checkpoint, f'{type(self).__name__} needs weights of a '
                f'{self.family}, and these are of a {" or ".join(families)}')
        parameters = self.parameters_of(Role.BASE, Role.TUNED)

        def explain(missing: list[str], unexpected: list[str]) -> tuple[str, str]:
            option = find_option(missing, unexpected)
            prefix = None if option else find_prefix(given, type(self).convert_base, parameters)
            if prefix is not None:
                return f'a file whose names begin with {prefix!r}', f'save its tensors without {prefix!r} to a file and give that'
            if layout is not None:
                # What is not read is a part of the name of the layout; what follows is what to do.
                name, _, remedy = layout.remedy.rpartition(': ')
                return f'{layout.name}, {name}' if name else layout.name, remedy
            return '', option or ''

        try:
            converted = type(self).convert_base(given)
            weights = self.fit_base(converted)
        except (InputError, KeyError, RuntimeError):  # of tensors that mean something else in this layout
            if layout is None:
                raise
            converted = weights = given
        copy_base(parameters, weights, self.base_checkpoint, type(self).__name__, explain)
        self.base_source = BaseSource.FILE
        self.origins = self._find_origins(converted, weights)

    def _load_base_if_at_hand(self) -> None:
        if self.base_source is not None:
            return
        if self.base_checkpoint is None:
            self._warn('has no base_checkpoint')
        elif locate(self.base_checkpoint) is None:
            self._warn(f'did not find its base_checkpoint {self.base_checkpoint!r} yet')
        else:
            self.load_base()

    def _load_base_if_named(self) -> None:
        """Fetch the base that has not been loaded, if ``base_checkpoint`` names it."""
        if self.base_source is None and self.base_checkpoint is not None:
            self.load_base()

    def _warn(self, what: str) -> None:
        print_log(
            f'{type(self).__name__} {what}: the first forward stops unless a base or a complete checkpoint has been '
            'loaded by then.', logger='current', level=logging.WARNING)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Load the base if that has not happened; only a random base gets upstream's initialisation."""
        self.check_unmerged('be initialised')
        self._check_unshared('be initialised')
        self._load_base_if_named()
        if self.base_source in (BaseSource.FILE, BaseSource.CHECKPOINT):
            self._is_init = True
        if self._is_init:
            return
        super().init_weights()
        self.origins = {}
        # Upstream's initialisation walks over every linear layer, those of the adapters too.
        centers = [center for stage in self.expert_centers for center in stage]
        for module in [module for _, module in find_adapter_modules(self)] + centers:
            module.reset_parameters()

    def check_base(self) -> None:
        """Raise RandomBaseError if the base would run on random weights that nobody asked for."""
        if self.base_source is None:
            raise RandomBaseError(
                f'{type(self).__name__} would run on a random base: base_checkpoint={self.base_checkpoint!r} has not been '
                'loaded and no complete checkpoint either. Set base_checkpoint to the pre-trained weights, or '
                'allow_random_base=True (with base_checkpoint=None) to run without one.')

    # ---- its identity ----

    def _find_origins(self, converted: Mapping[str, Tensor], fitted: Mapping[str, Tensor]) -> dict[str, list[str | None]]:
        """Describe those tensors of a base checkpoint that this model has not as they are.

        Args:
            converted: the file's, in the layout of upstream's class.
            fitted: what was copied.
        """
        frozen, loaded = self.frozen_parameters(), self.parameters_of(Role.BASE, Role.TUNED)
        origins: dict[str, list[str | None]] = {}
        if any(parameter.is_meta for parameter in frozen.values()):  # built to be counted: there are no values to tell apart
            return origins
        for name, value in converted.items() if frozen else ():
            if name in frozen and fitted[name] is value:
                continue
            if name in loaded or not is_ignorable(name):
                origins[name] = [
                    describe_tensor(value.to(torch.float32)),
                    describe_tensor(frozen[name]) if name in frozen else None
                ]
        return origins

    def describe_frozen(self) -> dict[str, str]:
        """Name -> shape, dtype and digest of each frozen parameter as it is now."""
        return {name: describe_tensor(parameter) for name, parameter in self.frozen_parameters().items()}

    def find_fitted(self, described: Mapping[str, str]) -> list[str]:
        """Names of the frozen parameters that differ from the base checkpoint's because loading made them fit this model.

        Args:
            described: from :meth:`describe_frozen`.
        """
        return [name for name, (_, present) in self.origins.items() if present is not None and described.get(name) == present]

    def describe_base(self, described: Mapping[str, str] | None = None) -> dict[str, str]:
        """Name -> shape, dtype and digest of each tensor of the base, as its file gives it.

        Args:
            described: from :meth:`describe_frozen`, if it is known.
        """
        found = dict(self.describe_frozen() if described is None else described)
        for name, (origin, present) in self.origins.items():
            if present is None or found.get(name) == present:  # else it was changed since
                found[name] = origin
        return found

    def fingerprint(self, described: Mapping[str, str] | None = None) -> str | None:
        """Return the SHA-256 of the base that is frozen, as its file gives it: names, shapes and values in single precision.

        Names are those of upstream's class, so all key layouts of one base agree, and so do all models around it: a position
        table counts before it is interpolated, a class token that the model leaves out counts, and so does a part that a
        method tunes as it was before. Buffers, adapters and output norms are not in it. Of a base that came from a checkpoint
        or is random, the frozen parameters as they are take the place of a file that is not known.

        Args:
            described: from :meth:`describe_frozen`, if it is known.

        Returns:
            64 hexadecimal digits, or None under full fine-tuning, which freezes nothing.

        Raises:
            RandomBaseError: if the base has not been loaded yet.
            InputError: while adapters are merged into it.
        """
        if self.method is None:
            return None
        if self.base_source is None:
            raise RandomBaseError(f'{type(self).__name__} has no base to identify yet: '
                                  f'base_checkpoint={self.base_checkpoint!r} has not been loaded.')
        self.check_unmerged('be identified by its base')
        return combine_descriptions(self.describe_base(described))

    def _check_claim(self, metadata: Mapping[str, Any]) -> None:
        """Compare the base with what a state dict without a base says of it, unless that was done before."""
        claim = metadata.get(CLAIM)
        if claim is CHECKED:
            return
        known = claim if isinstance(claim, dict) else {}
        if known.get('fingerprint') and len(known.get('backbones') or ()) == 1:  # several have one fingerprint together
            check_claimed_fingerprint(known, self.fingerprint(),
                                      self.frozen_parameters().values(), 'the state dict',
                                      type(self).__name__)
        else:
            print_log(
                f'{type(self).__name__} loads a state dict without a frozen base that does not say on which base it '
                'was trained: that was not checked. Load the checkpoint by mmengine.runner.load_checkpoint, which does.',
                logger='current', level=logging.WARNING)

    # ---- state dicts ----

    def check_state(self, given: Mapping[str, Any]) -> None:
        """Check that a state dict has every trainable weight, the base whole or not at all, and no more.

        mmengine never asks for a strict match, so its loading calls this (:mod:`mmparax.checkpoint.mmengine_loading`).

        Args:
            given: the state dict of this backbone, without a prefix.

        Raises:
            InputError: naming the keys that are missing, of another shape or unexpected, or if the base is another.
        """
        base = self.parameters_of(Role.BASE)
        buffers = {name for name, _ in self.named_buffers()}.intersection(self.names_of(Role.BASE))
        check_keys(type(self).__name__, given, self.state_dict(), base, buffers)
        if not base.keys() <= given.keys():
            self._load_base_if_named()  # the checkpoint leaves the base to it
        self._check_same_base(given, base)

    def _check_same_base(self, given: Mapping[str, Any], base: Mapping[str, nn.Parameter]) -> None:
        if (self.base_source is BaseSource.FILE or self.shared) and self.method is not None:
            check_same_base(type(self).__name__, self.base_checkpoint, given, base)

    def check_unmerged(self, action: str) -> None:
        """Raise InputError, saying that this backbone cannot ``action``, while its adapters are merged."""
        if self.merged:
            raise InputError(f'{type(self).__name__} cannot {action} while its adapters are merged into the frozen '
                             'weights: call mmparax.unmerge_adapter(model) first.')

    def _check_unshared(self, action: str) -> None:
        if self.shared:
            raise InputError(f'{type(self).__name__} cannot {action}: its base is that of other models of an '
                             'AdapterBank, too, and is there.')

    def _save_to_state_dict(self, destination: Any, prefix: str, *args: Any) -> None:
        self.check_unmerged('give its state dict (to save it, for example)')
        super()._save_to_state_dict(destination, prefix, *args)
        metadata = getattr(destination, '_metadata', {}).get(prefix[:-1])
        if metadata is not None and self.origins:
            metadata[ORIGINS] = {name: list(texts) for name, texts in self.origins.items()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any) -> None:
        self.check_unmerged('load a checkpoint')
        given = strip_prefix(state_dict, prefix)
        base = self.parameters_of(Role.BASE)
        complete = all(getattr(given.get(name), 'shape', None) == parameter.shape for name, parameter in base.items())
        if not complete:
            self._load_base_if_named()
        self._check_same_base(given, base)
        if complete:
            if self.base_source is not BaseSource.FILE and not self.shared:
                self.base_source = BaseSource.CHECKPOINT
                self.origins = read_origins(local_metadata)
            elif self.method is not None:
                # A checkpoint in half precision holds the base rounded: its own file is exact.
                state_dict.update(add_prefix({name: parameter.detach() for name, parameter in base.items()}, prefix))
        elif self.base_source is not None and not base.keys() & given.keys():
            # A checkpoint without the base, which the backbone has already.
            if given and self.method is not None:
                self._check_claim(local_metadata)
            state = self.state_dict()
            state_dict.update(add_prefix({name: state[name] for name in self.frozen_names() if name not in given}, prefix))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def find_families(weights: Mapping[str, Any]) -> list[str]:
    """Names of the families whose signature is among the keys of a base checkpoint."""
    pending, found = BaseWeights.__subclasses__(), set()
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if 'signature' in vars(cls) and any(re.search(cls.signature, name) for name in weights):
            found.add(cls.family)
    return sorted(found)
