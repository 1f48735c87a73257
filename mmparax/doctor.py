"""Examines a config without training: what PEFTHook checks in a run, on one batch and before the cluster is booked."""
import copy
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils.dl_utils import collect_env
from torch import nn

from mmparax.backbones.adapted import adapted_backbones
from mmparax.backbones.parameters import count_parameters
from mmparax.checkpoint.fingerprint import fingerprint
from mmparax.checkpoint.mmengine_loading import check_fit
from mmparax.checks import model as model_checks
from mmparax.checks import run as run_checks
from mmparax.checks.data import check_datasets
from mmparax.checks.random_batch import random_batch
from mmparax.config.query import datasets_of, metainfo_of, model_config, sub_configs, to_be_downloaded
from mmparax.errors import TRACEBACK, TrainingError, UserError
from mmparax.hooks.checkpoint_hook import CheckpointHook
from mmparax.utils.launch import use_amp
from mmparax.utils.text import listed

OK, WARNING, PROBLEM, SKIPPED = 'ok', 'warning', 'problem', 'skipped'
FIRST_STEPS = 12  # a dynamic loss scale starts high and is halved at every step that it rejects


@dataclass
class Finding:
    """The outcome of one check: ``status`` is ``'ok'``, ``'warning'``, ``'problem'`` or ``'skipped'``."""
    check: str
    status: str
    text: str


class Doctor:
    """Runs the checks in order; one that cannot be made because an earlier one failed is skipped.

    Args:
        cfg: the config of a training run.
        batch_size: images in the one batch.
        world: number of processes that the run will have.
        report: called with every finding as soon as there is one.
    """

    def __init__(self, cfg: Config, batch_size: int = 2, world: int = 1,
                 report: Callable[[Finding], None] = lambda finding: None):
        self.cfg, self.batch_size, self.world, self.report = cfg, batch_size, world, report
        self.findings: List[Finding] = []
        self.model: Optional[nn.Module] = None
        self.data_at_hand, self.fits = False, False

    def examine(self) -> List[Finding]:
        """Run every check and return the findings."""
        init_default_scope(self.cfg.get('default_scope', 'mmengine'))
        for name, check in (('packages', self.packages), ('config', self.config), ('checkpoints', self.checkpoints),
                            ('data', self.data), ('model', self.build), ('features', self.features),
                            ('classes', self.classes), ('base', self.base), ('load_from', self.load_from),
                            ('frozen', self.frozen), ('batch and rate', self.schedule), ('one step', self.step)):
            with self._guarded(name):
                status, text = check()
                self._add(name, status, text)
        return self.findings

    def _add(self, check: str, status: str, text: str) -> None:
        self.findings.append(Finding(check, status, text))
        self.report(self.findings[-1])

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self._add(name, PROBLEM, str(error))
        except Exception as error:  # whatever a toolbox raises is a finding, too
            if os.environ.get(TRACEBACK):
                raise
            text = f'{type(error).__name__}: {error}'.splitlines()[0]
            self._add(name, PROBLEM, f'{text} (set {TRACEBACK}=1 to see where)')

    # ---- the checks: each returns (status, text) or raises ----

    def packages(self) -> Tuple[str, str]:
        found = {name: __import__(name).__version__ for name in ('torch', 'mmengine', 'mmcv')}
        gpu = collect_env().get('GPU 0', 'no GPU')
        return OK, ', '.join(f'{name} {version}' for name, version in found.items()) + f', {gpu}'

    def config(self) -> Tuple[str, str]:
        hooks = [str(hook.get('type')) for hook in self.cfg.get('custom_hooks') or []]
        if not any('PEFTHook' in hook for hook in hooks):
            return WARNING, "custom_hooks has no dict(type='mmparax.PEFTHook'): only tools/train.py would check the run"
        return OK, 'PEFTHook checks the run'

    def checkpoints(self) -> Tuple[str, str]:
        hook = (self.cfg.get('default_hooks') or {}).get('checkpoint') or dict(type='CheckpointHook')
        cls = HOOKS.get(hook['type'])
        if cls is not None and issubclass(cls, MMEngineCheckpointHook) and not issubclass(cls, CheckpointHook):
            return WARNING, ("default_hooks.checkpoint is mmengine's: a kill while it writes loses the last one, and resuming "
                             "is not exact. Use type='mmparax.CheckpointHook'")
        return OK, 'written whole, resumed exactly'

    def data(self) -> Tuple[str, str]:
        check_datasets(self.cfg, ['train_dataloader', 'val_dataloader'])
        fetched = to_be_downloaded(self.cfg, ['train_dataloader', 'val_dataloader', 'test_dataloader'])
        if fetched:
            return OK, f'will be downloaded into {", ".join(map(repr, fetched))} at the start of the run'
        self.data_at_hand = True
        try:
            check_datasets(self.cfg, ['test_dataloader'])
        except UserError as error:
            return WARNING, f'training has its data, tools/test.py has not: {error}'
        return OK, 'the folders and files of all data sets exist, and have the classes of the config'

    def build(self) -> Tuple[str, str]:
        # A base that does not fit is a finding of its own: the model is built without one, which is loaded next.
        cfg, bases = model_config(self.cfg), {}
        for path, part in sub_configs(cfg):
            if part.get('base_checkpoint') is not None:
                bases[path] = part['base_checkpoint']
                part.update(base_checkpoint=None, allow_random_base=False)
        model = MODELS.build(cfg)
        self.model = revert_sync_batchnorm(model) if get_device() == 'cpu' else model
        for name, backbone in adapted_backbones(self.model):
            backbone.base_checkpoint = bases.get(name)
        count = count_parameters(self.model)
        methods = ', '.join(type(backbone.method).__name__ if backbone.method else 'full fine-tuning'
                            for _, backbone in adapted_backbones(self.model))
        return OK, (f'{type(self.model).__name__} with {methods}: {count.trainable_in_backbone / 1e6:.3f} M of '
                    f'{count.backbone / 1e6:.3f} M parameters of the backbone train, and '
                    f'{count.head.parameters / 1e6:.3f} M of the head')

    def features(self) -> Tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        model_checks.check_features(self.model)
        self.fits = True
        return OK, 'the neck and the heads take what the backbone gives'

    def classes(self) -> Tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            for dataset in datasets_of(self.cfg.get(loader)):
                try:
                    model_checks.check_class_counts(self.model, metainfo_of(self.cfg, dataset), f'{loader}.dataset')
                except UserError:
                    self.fits = False
                    raise
        return OK, 'the heads are for the classes of the data'

    def base(self) -> Tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        try:
            self.model.init_weights()
            for _, backbone in adapted_backbones(self.model):
                backbone.check_base()
        finally:  # the other checks need a base that runs, whatever is in it
            for _, backbone in adapted_backbones(self.model):
                backbone.base_source = backbone.base_source or 'random'
        if any(backbone.base_source == 'random' for _, backbone in adapted_backbones(self.model)):
            return WARNING, 'allow_random_base=True: the base has random weights'
        text = ', '.join(repr(backbone.base_checkpoint) for _, backbone in adapted_backbones(self.model))
        digest = fingerprint(self.model)
        return OK, f'{text} fits in every key and shape' + (f'; fingerprint {digest}' if digest else '')

    def load_from(self) -> Tuple[str, str]:
        path = self.cfg.get('load_from')
        if not path or self.model is None:
            return (SKIPPED, 'there is no model') if path else (OK, 'none, training starts from the base')
        checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu')
        run_checks.check_origin(self.model, checkpoint, path, training=True)
        check_fit(self.model, checkpoint.get('state_dict', checkpoint))
        return OK, f'{path!r} was made by this method on this base'

    def frozen(self) -> Tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        wrong = []
        for prefix, backbone in adapted_backbones(self.model):
            roles = {} if backbone.method is None else backbone.parameter_roles()
            wrong += [f'{prefix}.{name}' for name, parameter in backbone.named_parameters()
                      if name in roles and (roles[name] == 'base') == parameter.requires_grad]
        if wrong:
            raise TrainingError(f'{wrong[0]} and {len(wrong) - 1} more are trained or frozen against the method')
        run_checks.check_optimized(self.model, self._wrapper())
        count = count_parameters(self.model)
        return OK, (f'{count.backbone_frozen.parameters / 1e6:.3f} M parameters of the backbone are frozen; every '
                    'parameter that trains is in the optimizer once')

    def schedule(self) -> Tuple[str, str]:
        loader = self.cfg.train_dataloader
        batch = loader.get('batch_size') or loader.batch_sampler.batch_size
        wrapper = self._wrapper(accumulate=True)
        schedule = run_checks.schedule_of(self.cfg, batch, wrapper, self.world)
        if schedule.scaled and schedule.recipe:  # the runner would do it
            schedule.rates = [rate * self.world * batch / schedule.recipe for rate in schedule.rates]
        warning = schedule.warning()
        if warning is None:
            return OK, schedule.text()
        return WARNING, f'{schedule.text()} {warning[0].upper()}{warning[1:]} (--gpus N says how many processes there will be.)'

    def step(self) -> Tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        if not self.fits:
            return SKIPPED, 'the parts of the model do not fit'
        batch, origin = self._batch()
        if batch is None:
            return SKIPPED, f'no data, and no random images for a {type(self.model).__name__}'
        model = self.model.to(get_device()).train()
        wrapper, watch, found = self._wrapper(), run_checks.FrozenWatch(self.model), []
        for part in run_checks.single_wrappers(wrapper):
            run_checks.watch_first_step(part.optimizer, model, found.append)
        losses: Dict[str, Any] = {}
        for _ in range(FIRST_STEPS):
            losses = model.train_step(batch, wrapper)
            if found:
                break
        if not found:
            raise TrainingError(f'the loss scaler accepted none of {FIRST_STEPS} steps: use --amp bf16')
        for gradients in found:
            run_checks.check_gradients(gradients, bool(self.cfg.get('find_unused_parameters')))
        watch.check('by one step')
        watch.check_bytes(model)
        loss = sum(value.item() for name, value in losses.items() if name == 'loss')
        if not math.isfinite(loss):
            raise TrainingError(f'the loss of the first step is {loss}')
        text = (f'on {origin}: loss {loss:.4f}, a finite gradient for each of {sum(part.count for part in found)} parameters '
                'that train (nothing would break several processes), the frozen base unchanged')
        zero = [name for part in found for name in part.zero]
        if zero:
            text += f'; exactly zero, which some methods are at first: {listed(zero)}'
        return OK, text

    # ---- parts ----

    def _wrapper(self, accumulate: bool = False) -> OptimWrapper:
        holder = Config(dict(optim_wrapper=copy.deepcopy(self.cfg.optim_wrapper)))
        use_amp(holder, None)
        if not accumulate:
            holder.optim_wrapper.pop('accumulative_counts', None)
        return build_optim_wrapper(self.model or nn.Linear(1, 1), holder.optim_wrapper)

    def _batch(self) -> Tuple[Any, str]:
        if self.data_at_hand:
            loader = self.cfg.train_dataloader.copy()
            loader.update(num_workers=0, persistent_workers=False)
            for name in ('prefetch_factor', 'timeout'):
                loader.pop(name, None)
            loader['batch_size'] = min(self.batch_size, loader.get('batch_size') or self.batch_size)
            loader['dataset'] = self.cfg.train_dataloader.dataset
            return next(iter(Runner.build_dataloader(loader, seed=0))), f'{loader["batch_size"]} training images'
        return random_batch(self.model, self.batch_size), f'{self.batch_size} random images (the data are not there)'


def verdict(findings: List[Finding]) -> Tuple[bool, str]:
    """(whether training may start, the sentence that says so)."""
    problems = [finding.check for finding in findings if finding.status == PROBLEM]
    warnings = [finding.check for finding in findings if finding.status == WARNING]
    noted = f' {len(warnings)} warning(s): {", ".join(warnings)}.' if warnings else ''
    if problems:
        return False, f'NOT READY: {len(problems)} problem(s): {", ".join(problems)}.{noted}'
    return True, f'READY to train.{noted}'
