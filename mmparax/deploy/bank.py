"""Several tasks on one frozen base in one process."""
import copy
import threading
import weakref
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmparax.backbones.adapted import BASE, AdaptedBackbone, adapted_backbones
from mmparax.config.query import datasets_of
from mmparax.errors import InputError, ParameterError
from mmparax.inference.predictions import load_model
from mmparax.utils.modules import unwrap_model
from mmparax.utils.text import listed


class AdapterBank:
    """Models of several tasks whose frozen bases are the same tensors; memory grows by adapters and heads alone.

    Every task is a complete model, ready at any time: choosing one is a look-up, nothing is copied. Methods may differ from
    task to task; what a method tunes of the base itself (``BitFit``, ``NormTuning``) is its task's own. Adding a task
    builds its model whole and then drops its copy of the base: for that moment there are two.

    Different tasks may run in different threads at the same time, for running only reads the base. One task runs in one
    thread at a time: its ViT notes the size of the input in its blocks, and heads may keep notes of their own. That is
    ``model.test_step``; what looks names up (:meth:`add`, the toolboxes' ``inference_*``) runs alone: the scope of the
    names is one for the whole process.

    Args:
        device: where all models are, such as ``'cpu'`` or ``'cuda:0'``. Move or convert none of them afterwards.

    Example::

        bank = mmparax.AdapterBank()
        bank.add('scenes', 'upernet_swin-b_adaroute.py', 'scenes.safetensors')
        bank.add('boxes', 'mask-rcnn_swin-b_lora.py', 'boxes.safetensors')
        mmdet.apis.inference_detector(bank.use('boxes'), image)
    """

    def __init__(self, device: Union[str, torch.device] = 'cpu'):
        self.device = torch.empty(0, device=device).device  # with its number
        self._models: Dict[str, nn.Module] = {}
        self._base: Dict[str, nn.Parameter] = {}
        self._uses: Dict[str, List[Tuple[nn.Module, str, nn.Parameter, torch.dtype]]] = {}
        self._family: Optional[str] = None
        self._lock = threading.RLock()

    def add(self, name: str, config: Union[str, Config], checkpoint: str) -> nn.Module:
        """Build the model of a config, load a checkpoint or adapter file into it, and put it on the shared base.

        Sets the process's default scope meanwhile: no other thread may build or infer by the toolboxes' functions then.

        Args:
            name: of the task.
            config: path of a config file, or what was read from one.
            checkpoint: path or URL; with its head.

        Returns:
            The model in evaluation mode, with ``dataset_meta`` and ``cfg``, as ``mmseg.apis.inference_model`` and
            ``mmdet.apis.inference_detector`` want it: in that copy of the config, the transforms of the test pipelines
            name their scope.

        Raises:
            InputError: if the checkpoint does not fit, or as in :meth:`adopt`.
        """
        self._check_free(name)
        cfg = Config.fromfile(config) if isinstance(config, str) else config
        with self._lock, DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
            model = load_model(cfg, checkpoint)
            model.cfg = _with_scopes(cfg)
            return self.adopt(name, model)

    def adopt(self, name: str, model: nn.Module) -> nn.Module:
        """Put a model that is complete already on the shared base; its own copy of it is dropped.

        Args:
            name: of the task.
            model: with one backbone of mmparax and a base; it goes to the bank's device, in evaluation mode.

        Returns:
            ``model``.

        Raises:
            InputError: if the name is taken, the base is not the one of the other tasks or is shared already, nothing
                of it is frozen (``adapter=None``), or adapters are merged; the model is as it was.
            RandomBaseError: if its base has not been loaded.
        """
        model = unwrap_model(model)
        with self._lock:
            self._check_free(name)
            backbone = self._backbone_of(model)
            self._check_same_base(name, backbone, _frozen(backbone))
            model.to(self.device).eval()
            self._family = backbone.family
            uses = []
            for key, value in _frozen(backbone).items():
                path, _, attribute = key.rpartition('.')
                module = backbone.get_submodule(path)
                module._parameters[attribute] = self._base.setdefault(key, value)
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
                if module._parameters[attribute] is not shared or (shared.dtype, shared.device) != (dtype, self.device):
                    raise InputError(f'the model of {name!r} no longer runs on the shared base: it was moved or '
                                         'converted after it was added. Remove it and add it again.')
            return self._models[name]

    def remove(self, name: str) -> None:
        """Forget a task and free what only it needed; if somebody still holds its model, that gets a base of its own.

        Raises:
            InputError: if there is no such task.
        """
        with self._lock:
            self._check_known(name)
            held, left = weakref.ref(self._models.pop(name)), self._uses.pop(name)
            needed = {id(shared) for uses in self._uses.values() for _, _, shared, _ in uses}
            model = held()
            if model is not None:
                for module, attribute, shared, _ in left:
                    if id(shared) in needed and module._parameters[attribute] is shared:
                        module._parameters[attribute] = nn.Parameter(shared.detach().clone(), requires_grad=False)
                for _, backbone in adapted_backbones(model):
                    backbone.shared = False
            self._base = {key: value for key, value in self._base.items() if id(value) in needed}
            self._family = self._family if self._models else None

    def names(self) -> List[str]:
        """Names of the tasks, in the order in which they came."""
        return list(self._models)

    def memory(self) -> Dict[str, Any]:
        """Bytes of the weights: ``dict(base=..., tasks={name: ...})``, where a task has its adapters, head and buffers."""
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

    def _backbone_of(self, model: nn.Module) -> AdaptedBackbone:
        backbones = [backbone for _, backbone in adapted_backbones(model)]
        if len(backbones) != 1:
            raise InputError(f'an AdapterBank takes models with one backbone of mmparax, and {type(model).__name__} has '
                                 f'{len(backbones)}.')
        backbone, = backbones
        backbone.check_base()
        backbone.check_unmerged('join an AdapterBank')
        if backbone.shared:
            raise InputError(f'the base of this {type(backbone).__name__} is that of an AdapterBank already: remove its '
                                 'task there first, or build a model of its own.')
        if backbone.method is None:
            raise InputError('adapter=None trains the whole backbone: there is no frozen base that an AdapterBank could '
                                 'share. Choose an adapter.')
        return backbone

    def _check_same_base(self, name: str, backbone: AdaptedBackbone, frozen: Dict[str, Tensor]) -> None:
        """Check byte by byte that a base is the one that is there."""
        if self._family not in (None, backbone.family):
            raise InputError(f'the model of {name!r} has a {backbone.family}, and the base of this AdapterBank is a '
                                 f'{self._family}: use another bank for it.')
        others = [key for key, value in frozen.items() if key in self._base and not (
            value.shape == self._base[key].shape and value.dtype == self._base[key].dtype
            and torch.equal(value.to(self.device), self._base[key]))]
        if others:
            raise InputError(f'the model of {name!r} has another base than the other tasks of this AdapterBank: '
                                 f'{listed(others)} of {len(frozen)} frozen weights differ. All tasks need the same '
                                 'base, arch and precision; use another bank for it.')


def _frozen(backbone: AdaptedBackbone) -> Dict[str, nn.Parameter]:
    roles = backbone.parameter_roles()
    return {key: value for key, value in backbone.named_parameters() if roles[key] == BASE}


def _with_scopes(cfg: Config) -> Config:
    """A copy of a config whose test pipelines are built without regard to the default scope."""
    cfg = copy.deepcopy(cfg)
    pipelines = [dataset.get('pipeline') for dataset in datasets_of(cfg.get('test_dataloader'))] + [cfg.get('test_pipeline')]
    for transform in (transform for pipeline in pipelines for transform in pipeline or []):
        if isinstance(transform, dict):
            # Holds for the transforms inside of it, too: they are built while it is.
            transform.setdefault('_scope_', cfg.get('default_scope', 'mmengine'))
    return cfg
