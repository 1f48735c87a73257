"""Several tasks on one frozen base in one process."""
import copy
import threading
import weakref
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmparax.backbones.adapted import AdaptedBackbone, find_adapted_backbones
from mmparax.config.query import find_datasets
from mmparax.errors import InputError, ParameterError
from mmparax.inference.predictions import load_model
from mmparax.utils.modules import unwrap_model
from mmparax.utils.text import summarize_names
from mmparax.weights.digest import describe_tensor


class AdapterBank:
    """Models of several tasks that share the tensors of one frozen base; memory grows by adapters and heads alone.

    Every task is a complete model, ready at any time: choosing one is a look-up, nothing is copied. Each task may have its
    own method. The parameters of the base that a method trains (``BitFit``, ``NormTuning``) belong to the task alone. A task
    is built with a base of its own, which is dropped when the task joins: for that moment there are two.

    Different tasks may run in different threads at the same time, because running only reads the base. One task runs in one
    thread at a time: a ViT stores the size of the input in its blocks, and heads may store more. This holds for
    ``model.test_step``. Functions that look names up (:meth:`add`, the toolboxes' ``inference_*``) must run alone, because
    the whole process shares one default scope.

    Args:
        device: of all models, such as ``'cpu'`` or ``'cuda:0'``. Do not move or convert a model afterwards.

    Example::

        bank = mmparax.AdapterBank()
        bank.add('scenes', 'upernet_swin-b_adaroute.py', 'scenes.safetensors')
        bank.add('boxes', 'mask-rcnn_swin-b_lora.py', 'boxes.safetensors')
        mmdet.apis.inference_detector(bank.use('boxes'), image)
    """

    def __init__(self, device: str | torch.device = 'cpu'):
        self.device = torch.empty(0, device=device).device  # with its index
        self._models: dict[str, nn.Module] = {}
        self._base: dict[str, nn.Parameter] = {}
        self._uses: dict[str, list[tuple[nn.Module, str, nn.Parameter, torch.dtype]]] = {}
        self._family: str | None = None
        self._fitted: dict[str, str] = {}  # what the base's file holds where a task has a tensor that was made to fit it
        self._lock = threading.RLock()

    def add(self, name: str, config: str | Config, checkpoint: str) -> nn.Module:
        """Build the model of a config, load a checkpoint or adapter file into it, and let it share the base.

        The default scope of the process changes meanwhile: no other thread may call the toolboxes' functions then.

        Args:
            name: of the task.
            config: path of a config file, or its content.
            checkpoint: path or URL; it holds the head, too.

        Returns:
            The model in evaluation mode, with ``dataset_meta`` and ``cfg``, which ``mmseg.apis.inference_model`` and
            ``mmdet.apis.inference_detector`` read. ``cfg`` is a copy of the config in which the transforms of the test
            pipelines name their scope.

        Raises:
            InputError: if the checkpoint does not fit, or as in :meth:`adopt`.
        """
        self._check_free(name)
        cfg = Config.fromfile(config) if isinstance(config, str) else config
        with self._lock, DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
            model = load_model(cfg, checkpoint)
            model.cfg = _add_scopes(cfg)
            return self.adopt(name, model)

    def adopt(self, name: str, model: nn.Module) -> nn.Module:
        """Let a complete model share the base; its own copy of the base is dropped.

        Args:
            name: of the task.
            model: with one backbone of mmparax and its base; it goes to the bank's device, in evaluation mode.

        Returns:
            ``model``.

        Raises:
            InputError: if the name is taken, the base is not that of the other tasks or is shared already, nothing of it is
                frozen (``adapter=None``), or adapters are merged; the model does not change then.
            RandomBaseError: if its base has not been loaded.
        """
        model = unwrap_model(model)
        with self._lock:
            self._check_free(name)
            backbone = self._find_backbone(model)
            frozen, fitted = self._split_base(backbone)
            self._check_same_base(name, backbone, frozen, fitted)
            model.to(self.device).eval()
            self._family = backbone.family
            self._fitted.update(fitted)
            uses = []
            for key, value in backbone.frozen_parameters().items():
                if key in fitted:
                    continue
                path, _, attribute = key.rpartition('.')
                module = backbone.get_submodule(path)
                setattr(module, attribute, self._base.setdefault(key, value))
                uses.append((module, attribute, self._base[key], value.dtype))
            backbone.shared = True
            self._models[name], self._uses[name] = model, uses
        return model

    def use(self, name: str) -> nn.Module:
        """Return the model of a task, ready to run.

        Raises:
            InputError: if there is no such task, or its model was moved or converted since it was added.
        """
        with self._lock:
            self._check_known(name)
            for module, attribute, shared, dtype in self._uses[name]:
                if getattr(module, attribute) is not shared or (shared.dtype, shared.device) != (dtype, self.device):
                    raise InputError(f'the model of {name!r} no longer runs on the shared base: it was moved or '
                                     'converted after it was added. Remove it and add it again.')
            return self._models[name]

    def remove(self, name: str) -> None:
        """Remove a task and free what only it needed. A model that is still referenced gets a base of its own.

        Raises:
            InputError: if there is no such task.
        """
        with self._lock:
            self._check_known(name)
            reference, left = weakref.ref(self._models.pop(name)), self._uses.pop(name)
            needed = {id(shared) for uses in self._uses.values() for _, _, shared, _ in uses}
            model = reference()
            if model is not None:
                for module, attribute, shared, _ in left:
                    if id(shared) in needed and getattr(module, attribute) is shared:
                        setattr(module, attribute, nn.Parameter(shared.detach().clone(), requires_grad=False))
                for _, backbone in find_adapted_backbones(model):
                    backbone.shared = False
            self._base = {key: value for key, value in self._base.items() if id(value) in needed}
            if not self._models:
                self._family, self._fitted = None, {}

    def names(self) -> list[str]:
        """Return the names of the tasks, in the order in which they were added."""
        with self._lock:
            return list(self._models)

    def memory(self) -> dict[str, Any]:
        """Count the bytes of the weights: ``dict(base=..., tasks={name: ...})``; a task has adapters, head and buffers."""
        with self._lock:
            shared = {value.data_ptr() for value in self._base.values()}
            tasks = {}
            for name, model in self._models.items():
                own = {value.data_ptr(): value.nbytes for value in [*model.parameters(), *model.buffers()]}
                tasks[name] = sum(count for address, count in own.items() if address not in shared)
            return dict(base=sum(value.nbytes for value in self._base.values()), tasks=tasks)

    def _check_free(self, name: str) -> None:
        if name in self._models:
            raise ParameterError('name', name, 'the bank has a task of that name', 'Remove it first, or choose another name.')

    def _check_known(self, name: str) -> None:
        if name not in self._models:
            raise ParameterError('name', name, f'the bank has the tasks {", ".join(map(repr, self._models)) or "(none)"}')

    def _find_backbone(self, model: nn.Module) -> AdaptedBackbone:
        backbones = [backbone for _, backbone in find_adapted_backbones(model)]
        if len(backbones) != 1:
            raise InputError(f'an AdapterBank takes models with one backbone of mmparax, and {type(model).__name__} has '
                             f'{len(backbones)}.')
        backbone, = backbones
        backbone.check_base()
        backbone.check_unmerged('join an AdapterBank')
        if backbone.shared:
            raise InputError(f'this {type(backbone).__name__} shares the base of an AdapterBank already: remove its task '
                             'there first, or build another model.')
        if backbone.method is None:
            raise InputError('adapter=None trains the whole backbone: there is no frozen base that an AdapterBank could '
                             'share. Choose a method.')
        return backbone

    @staticmethod
    def _split_base(backbone: AdaptedBackbone) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The frozen tensors that are as in the base's file, and of the others, such as an interpolated position table, what
        the file holds: they stay each task's own."""
        frozen = backbone.frozen_parameters()
        described = {name: describe_tensor(frozen[name]) for name in backbone.origins if name in frozen}
        fitted = {name: str(backbone.origins[name][0]) for name in backbone.find_fitted(described)}
        return {name: value for name, value in frozen.items() if name not in fitted}, fitted

    def _check_same_base(self, name: str, backbone: AdaptedBackbone, frozen: dict[str, Tensor], fitted: dict[str, str]) -> None:
        """Check byte by byte that a base is that of the other tasks."""
        if self._family not in (None, backbone.family):
            raise InputError(f'the model of {name!r} has a {backbone.family}, and the base of this AdapterBank is a '
                             f'{self._family}: use another bank for it.')
        others = [
            key for key, value in frozen.items()
            if key in self._base and not (value.shape == self._base[key].shape and value.dtype == self._base[key].dtype
                                          and have_equal_bytes(value.to(self.device), self._base[key]))
        ]
        ours = {**fitted, **{key: describe_tensor(frozen[key]) for key in frozen if key in self._fitted}}
        theirs = {**{key: describe_tensor(self._base[key]) for key in fitted if key in self._base}, **self._fitted}
        others += [key for key, text in ours.items() if theirs.get(key, text) != text]
        if others:
            raise InputError(
                f'the model of {name!r} has another base than the other tasks of this AdapterBank: '
                f'{summarize_names(others)} of {len(frozen) + len(fitted)} frozen weights differ. All tasks need the same base, '
                'arch and precision; use another bank for it.')


def have_equal_bytes(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one shape and type are the same byte by byte; equal numbers need not be: 0.0 and -0.0."""
    return torch.equal(first.contiguous().flatten().view(torch.uint8), second.contiguous().flatten().view(torch.uint8))


def _add_scopes(cfg: Config) -> Config:
    """Copy a config; the test pipelines of the copy are built in its scope, whatever the default scope is."""
    cfg = copy.deepcopy(cfg)
    pipelines = [dataset.get('pipeline') for dataset in find_datasets(cfg.get('test_dataloader'))] + [cfg.get('test_pipeline')]
    for transform in (transform for pipeline in pipelines for transform in pipeline or []):
        if isinstance(transform, dict):
            # The scope also holds for the transforms inside of it, which are built meanwhile.
            transform.setdefault('_scope_', cfg.get('default_scope', 'mmengine'))
    return cfg
