"""What the scripts in ``tools/`` share: arguments, configs, and errors as sentences."""
import argparse
import functools
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner

from mmparax.config.files import check_checkpoint, load_config
from mmparax.config.query import datasets_of, registered
from mmparax.errors import TRACEBACK, InputError, MissingFileError, RandomBaseError, UserError
from mmparax.hooks.stock import holds_adapted_backbone, replace_stock_hooks
from mmparax.utils.launch import is_first_process
from mmparax.utils.logs import quiet_log
from mmparax.utils.signatures import keyword_names


def tool(main: Callable[..., Any]) -> Callable[..., None]:
    """Decorate a script's ``main``: errors that explain themselves end it with their sentence and exit code 1."""

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            main(*args, **kwargs)
        except UserError as error:
            if os.environ.get(TRACEBACK):
                raise
            sys.exit(f'{type(error).__name__}: {error}')

    return wrapped


def load_config_of(args: argparse.Namespace) -> Config:
    """The config that the arguments of :func:`add_common_arguments` ask for."""
    return load_config(args.config, args.cfg_options, args.work_dir, args.launcher, args.local_rank)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and metrics (default: work_dirs/CONFIG_NAME)')
    add_config_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='change settings of the config, e.g. model.backbone.adapter.hidden_dim=64; lists as key="[a,b]"')


@contextmanager
def config_kept(cfg: Config, always: bool = False) -> Iterator[None]:
    """Put the config file in the work dir back if the run inside is refused: mmengine replaces it before anything is checked.

    Args:
        cfg: the config of the run.
        always: put it back after a success, too: the work dir may belong to a training run.
    """
    path = Path(cfg.work_dir) / Path(cfg.filename).name
    before = path.read_bytes() if path.is_file() else None
    refused = False
    try:
        yield
    except (InputError, MissingFileError, RandomBaseError):
        refused = True
        raise
    finally:
        if is_first_process(cfg.launcher) and (refused or always):
            if before is not None:
                path.write_bytes(before)
            elif refused:
                path.unlink(missing_ok=True)


def quiet_config(args: argparse.Namespace) -> Config:
    """The config of a script that loads ``args.checkpoint`` and prints its own result; of the toolboxes' log only errors are kept.

    Raises:
        UserError: if the config or the checkpoint does not exist or cannot be read.
    """
    quiet_log()
    cfg = load_config(args.config, args.cfg_options)
    check_checkpoint(args.checkpoint)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the runner that a config asks for.

    A model with a backbone of mmparax always has the checks of PEFTHook, and mmparax's hooks in place of mmengine's own
    CheckpointHook and EMAHook, which an inherited config may name; the log says which were replaced.

    Args:
        cfg: its hooks are changed in place.
    """
    sentences = []
    if holds_adapted_backbone(cfg):
        sentences = replace_stock_hooks(cfg)
        hooks = cfg.get('custom_hooks') or []
        if not any('PEFTHook' in str(hook.get('type')) for hook in hooks):
            cfg.custom_hooks = [*hooks, dict(type='mmparax.PEFTHook')]
    if 'runner_type' in cfg:
        from mmengine.registry import RUNNERS
        runner = RUNNERS.build(cfg)
    else:
        runner = Runner.from_cfg(cfg)
    for sentence in sentences:
        runner.logger.info(sentence)
    return runner


def draw_predictions(cfg: Config, show: bool, show_dir: Optional[str], wait_time: float) -> None:
    """Make the visualization hook of a config draw.

    Raises:
        InputError: if the config has no such hook.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise InputError("--show and --show-dir need the visualization hook: add visualization=dict(type="
                             "'SegVisualizationHook') or that of the config's toolbox to default_hooks.")
    for dataset in datasets_of(cfg.get('test_dataloader')):
        palette = (dataset.get('metainfo') or {}).get('palette')
        if palette:
            dataset.metainfo.palette = [tuple(color) for color in palette]  # mmdetection draws in no others
    if show:
        hook.update(show=True, wait_time=wait_time)
    cls = registered(HOOKS, hook, cfg)
    if cls is not None and 'out_dir' in keyword_names(cls.__init__):  # mmpretrain's
        hook.update(enable=True, interval=1, **(dict(out_dir=show_dir) if show_dir else {}))
        return
    hook.draw = True
    if show_dir:
        cfg.visualizer.save_dir = show_dir
        if not any('Local' in backend['type'] for backend in cfg.visualizer.get('vis_backends') or []):
            cfg.visualizer.vis_backends = [ConfigDict(type='LocalVisBackend')]
