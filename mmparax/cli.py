"""What the scripts in ``tools/`` share: arguments, configs, and errors as sentences.

torch and the toolboxes take seconds to import. This module imports neither, and a script does so in its functions, behind the
parsing of its arguments: ``--help`` and a wrong option are answered at once, and an interrupt meanwhile is a sentence, too.
"""
from __future__ import annotations

import argparse
import ast
import functools
import os
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mmparax.errors import (
    TRACEBACK,
    InputError,
    MissingFileError,
    ParameterError,
    RandomBaseError,
    UserError,
    check_int,
    check_seed,
)
from mmparax.utils.choices import ALL, PRECISIONS, SAMPLE
from mmparax.utils.interrupts import watch_interrupts
from mmparax.utils.output import end_at_closed_pipes
from mmparax.utils.ranks import RANKS, is_first_process

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner

Container = argparse._ActionsContainer  # a parser, or a group of its arguments


class ToolParser(argparse.ArgumentParser):
    """The parser of a script: options have one spelling, so none is abbreviated."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_ToolFormatter)


class _ToolFormatter(argparse.HelpFormatter):
    """argparse's, which has no way to say "one number or two"."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return 'H [W]' if isinstance(action, _SizeAction) else super()._format_args(action, default_metavar)


def tool(build_parser: Callable[[], argparse.ArgumentParser],
         **options: str) -> Callable[[Callable[[argparse.Namespace], Any]], Callable[[], None]]:
    """Decorate the ``main`` of a script, which takes the arguments that its parser has read.

    An error that explains itself ends the script with its sentence and exit code 1.

    Args:
        build_parser: makes the parser.
        **options: name of the argument of the script for each parameter of the library that is called otherwise.
    """

    def decorate(main: Callable[[argparse.Namespace], Any]) -> Callable[[], None]:

        @functools.wraps(main)
        def run() -> None:
            end_at_closed_pipes()
            parser = build_parser()
            args = parser.parse_args(complete_amp(sys.argv[1:]))
            with watch_interrupts() as interrupts:
                try:
                    from mmparax.utils.noise import silence_third_parties
                    silence_third_parties()
                    main(args)
                    sys.stdout.flush()  # here, not when Python ends: it may go into a closed pipe
                except UserError as error:
                    if os.environ.get(TRACEBACK):
                        raise
                    sys.exit(f'{type(error).__name__}: {explain(error, parser, args, options)}')
                except (KeyboardInterrupt, Exception) as error:
                    if os.environ.get(TRACEBACK):
                        raise
                    if not interrupts.explain(error):
                        sys.exit(describe_unexpected(error))
                    end_interrupted('the same command with --resume goes on.' if hasattr(args, 'resume') else '',
                                    getattr(args, 'launcher', 'none'))

        return run

    return decorate


def describe_unexpected(error: BaseException) -> str:
    """What a script says of an error of a toolbox that has no sentence of its own; the traceback goes into a file."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    with tempfile.NamedTemporaryFile('w', prefix='mmparax-', suffix='.log', delete=False, encoding='utf-8') as file:
        file.writelines(lines)
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = ' '.join(str(error).split()) or 'no message'
    return (f'{type(error).__name__}: {text[:500]} (in {place.name} of {place.filename}, line {place.lineno}). This error has no '
            f'explanation of its own; tools/doctor.py CONFIG may say more. Traceback: {file.name}, or set {TRACEBACK}=1.')


def explain(error: UserError, parser: argparse.ArgumentParser, args: argparse.Namespace, options: Mapping[str, str]) -> str:
    """The sentence of an error, in which an argument that was given to a script has the name of its option.

    Args:
        error: of the library, which knows its own parameters alone.
        parser: that of the script.
        args: what it read.
        options: name of the argument of the script for each parameter that is called otherwise.
    """
    text, usage = str(error), parser.format_usage()
    if not isinstance(error, ParameterError):
        return text
    if '--force' in usage:
        text = text.replace('overwrite=True', '--force')
    else:
        text = re.sub(r', or replace \w+ with overwrite=True', '', text)
    name = options.get(error.parameter, error.parameter)
    option = '--' + name.replace('_', '-')
    if not re.search(rf'(?<![\w-]){re.escape(option)}(?![\w-])', usage):
        return text
    # A part of a config may have a parameter of the same name: it is meant if the command line left the option alone.
    given = getattr(args, name, None)
    if given == parser.get_default(name) and not _is_among(error.value, given):
        return text
    return option + text[len(error.parameter):]


def name_options(text: str, parameters: Sequence[str]) -> str:
    """A sentence of the library with the options of a script where it proposes arguments.

    ``ignore=[3, 'a b']`` becomes ``--ignore 3 'a b'``, ``clip=True`` becomes ``--clip``.

    Args:
        text: of an error.
        parameters: those that are options of the script.
    """

    def replace(match: re.Match[str]) -> str:
        value = ast.literal_eval(match[2])
        values = [] if value is True else value if isinstance(value, list) else [value]
        return ' '.join([f'--{match[1].replace("_", "-")}', *(shlex.quote(str(each)) for each in values)])

    literal = r"""\[[^\[\]]*\]|'[^']*'|"[^"]*"|True"""
    return re.sub(rf'\b({"|".join(parameters)})=({literal})', replace, text)


def _is_among(value: Any, given: Any) -> bool:
    """Whether a value is what was given, or one of several; a path may be written in another way."""
    several = given if isinstance(given, (list, tuple)) else ()
    return any(os.path.abspath(str(value)) == os.path.abspath(str(each)) for each in (given, *several))


@contextmanager
def explain_interrupt() -> Iterator[None]:
    """End a script that is interrupted, and whose command goes on from there, with a sentence instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        end_interrupted('the same command goes on from here.')


def end_interrupted(advice: str = '', launcher: str = 'none') -> NoReturn:
    """End a script after Ctrl-C with a sentence, once for all processes of a run.

    Args:
        advice: what to do next, a clause that ends in a full stop.
        launcher: of the run.
    """
    if launcher in RANKS:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it comes twice: from the terminal and from the launcher
    if is_first_process(launcher):
        print(f'\nInterrupted: {advice}' if advice else '\nInterrupted.', file=sys.stderr, flush=True)
    if launcher in RANKS:
        sys.stdout.flush()
        os._exit(130)  # without a farewell to the other processes, which are on their way out, too
    sys.exit(130)


# ---- arguments ----


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share; :func:`load_run_config` reads them."""
    parser.add_argument('--work-dir', metavar='DIR', help='folder for logs, checkpoints and metrics (default: '
                        'work_dirs/CONFIG_NAME)')
    add_cfg_options_argument(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='job launcher (default: %(default)s)')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_cfg_options_argument(parser: Container) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument('--cfg-options', nargs='+', action=_OptionsAction, metavar='KEY=VALUE',
                        help='change settings of the config, e.g. model.backbone.adapter.hidden_dim=64; lists as key="[a,b]"')


class _OptionsAction(argparse.Action):
    """mmengine's action, which explains a word without ``=`` and what it cannot read."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        for value in values:
            key, sign, given = value.partition('=')
            if not sign:
                raise argparse.ArgumentError(self, f'{value!r} is not KEY=VALUE')
            if not all(key.split('.')):
                raise argparse.ArgumentError(self, f'{value!r}: a part of the name in front of = is empty')
            from mmparax.config.sections import describe_unreadable
            reason = describe_unreadable(given)
            if reason:
                raise argparse.ArgumentError(self, f'{key}={given!r}: {reason}')
        from mmengine.config import DictAction
        DictAction(self.option_strings, self.dest, nargs=self.nargs)(parser, namespace, values, option_string)


def add_amp_argument(parser: Container) -> None:
    """Add ``--amp``: None, 'fp16' or 'bf16'."""
    parser.add_argument('--amp', nargs='?', const=PRECISIONS[0], choices=PRECISIONS,
                        help='mixed precision on a GPU: fp16 with a dynamic loss scale (default), or bf16 without one')


def complete_amp(arguments: Sequence[str]) -> list[str]:
    """Give an ``--amp`` without a precision behind it the default one, so that argparse takes no config for its value."""
    following = [*arguments[1:], '']
    return [
        f'{argument}={PRECISIONS[0]}' if argument == '--amp' and not _is_precision(after) else argument
        for argument, after in zip(arguments, following)
    ]


def _is_precision(argument: str) -> bool:
    """Whether what follows ``--amp`` is meant as its value: a known one, or a word such as ``fp8`` for which it has none."""
    return argument in PRECISIONS or re.fullmatch(r'[A-Za-z]+\d+', argument) is not None and not os.path.exists(argument)


def add_device_argument(parser: Container) -> None:
    """Add ``--device``, for :func:`mmparax.utils.devices.resolve_device`."""
    parser.add_argument('--device', default='auto', help='cpu, cuda or cuda:N (default: a GPU if there is one)')


def add_gpus_argument(parser: Container, default: int | None, meaning: str) -> None:
    """Add ``--gpus``."""
    parser.add_argument('--gpus', type=int, default=default, metavar='N', help=meaning)


def add_batch_size_argument(parser: Container, default: int, meaning: str = 'images at a time') -> None:
    """Add ``--batch-size``."""
    parser.add_argument('--batch-size', type=int, default=default, metavar='N', help=f'{meaning} (default: %(default)s)')


def add_num_images_argument(parser: Container, default: int | None, meaning: str) -> None:
    """Add ``--num-images``."""
    parser.add_argument('--num-images', type=int, default=default, metavar='N', help=meaning)


def add_image_dir_argument(parser: Container, meaning: str) -> None:
    """Add ``--image-dir``."""
    parser.add_argument('--image-dir', metavar='DIR', help=meaning)


def add_out_argument(parser: Container, default: str, meaning: str) -> None:
    """Add ``--out``, a file to write."""
    parser.add_argument('--out', default=default, metavar='FILE', help=f'{meaning} (default: %(default)s)')


def add_out_dir_argument(parser: Container, default: str | None = None, meaning: str = 'folder of the results') -> None:
    """Add ``--out-dir``, which must be given if there is no default."""
    parser.add_argument('--out-dir', default=default, required=default is None, metavar='DIR', help=meaning +
                        (' (default: %(default)s)' if default else ''))


def add_size_argument(parser: Container, meaning: str, default: tuple[int, int] | None = None, required: bool = False,
                      flag: str = '--size') -> None:
    """Add ``--size H [W]``, or another flag of this kind: (H, W) in pixels."""
    parser.add_argument(flag, nargs='+', type=int, action=_SizeAction, default=default, required=required, help=meaning)


class _SizeAction(argparse.Action):
    """One number is the side of a square."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        if len(values) > 2:
            raise argparse.ArgumentError(self, f'it takes a height and at most a width, not {len(values)} numbers')
        setattr(namespace, self.dest, (values[0], values[-1]))


def add_scan_arguments(parser: Container, meaning: str) -> None:
    """Add ``--scan`` (None, a number, or 'all') and ``--workers``."""
    parser.add_argument(
        '--scan', nargs='?', const=SAMPLE, type=_parse_amount, metavar='N',
        help=f'{meaning}: all file names, and N images of each data set, or all, pixel by pixel (default: '
        '%(const)s); what was read is kept in the work dir, so that an interrupted scan goes on')
    parser.add_argument('--workers', type=int, default=0, metavar='N', help='processes that read for --scan (default: up to 4)')


def _parse_amount(text: str) -> int | str:
    if text == ALL:
        return ALL
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number of images nor {ALL!r}; a config goes in front of --scan')
    return int(text)


# ---- configs and runs ----


def load_run_config(args: argparse.Namespace) -> Config:
    """The config that the arguments of :func:`add_run_arguments` ask for.

    Raises:
        ParameterError: if the script was not started by the launcher that it is told of.
    """
    from mmparax.config.files import load_config
    from mmparax.utils.launch import check_launcher

    check_launcher(args.launcher)
    return load_config(args.config, args.cfg_options, args.work_dir, args.launcher, args.local_rank)


@contextmanager
def keep_config_file(cfg: Config, always: bool = False) -> Iterator[None]:
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


def load_config_quietly(args: argparse.Namespace) -> Config:
    """The config of a script that loads ``args.checkpoint`` and prints its own result; the toolboxes log only errors.

    Raises:
        UserError: if the config or the checkpoint does not exist or cannot be read.
    """
    from mmengine.registry import init_default_scope

    from mmparax.config.files import check_checkpoint, load_config
    from mmparax.utils.logs import silence_log

    silence_log()
    cfg = load_config(args.config, args.cfg_options)
    check_checkpoint(args.checkpoint)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the runner that a config asks for.

    A model with a backbone of mmparax always has the checks of PEFTHook, and mmparax's hooks in place of mmengine's own
    CheckpointHook and EMAHook, which an inherited config may name; the log says which were replaced. Its dataloaders have a
    data set that is not empty, and what they cannot do without workers is switched off.

    Args:
        cfg: its hooks and dataloaders are changed in place.

    Raises:
        InputError: if a loop is configured by halves.
    """
    from mmengine.runner import Runner

    from mmparax.checks.loaders import build_checked_loaders, drop_worker_options
    from mmparax.config.sections import check_loops
    from mmparax.hooks.stock import holds_adapted_backbone, replace_stock_hooks

    check_loops(cfg)
    sentences = drop_worker_options(cfg)
    if holds_adapted_backbone(cfg):
        sentences += replace_stock_hooks(cfg)
        hooks = cfg.get('custom_hooks') or []
        if not any('PEFTHook' in str(hook.get('type')) for hook in hooks):
            cfg.custom_hooks = [*hooks, dict(type='mmparax.PEFTHook')]
    if 'runner_type' in cfg:
        from mmengine.registry import RUNNERS
        runner = RUNNERS.build(cfg)
    else:
        runner = Runner.from_cfg(cfg)
    if runner.logger.log_file:
        runner.logger.info('Environment, config and hooks: %s', runner.logger.log_file)
    build_checked_loaders(runner)
    for sentence in sentences:
        runner.logger.info(sentence)
    return runner


def draw_predictions(cfg: Config, wait_time: float) -> None:
    """Make the visualization hook of a config show predictions in a window.

    Raises:
        InputError: if the config has no such hook.
    """
    from mmengine.registry import HOOKS

    from mmparax.config.query import find_class, find_datasets
    from mmparax.utils.signatures import list_keywords

    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise InputError("--show needs the visualization hook: add visualization=dict(type="
                         "'SegVisualizationHook') or that of the config's toolbox to default_hooks.")
    for dataset in find_datasets(cfg.get('test_dataloader')):
        palette = (dataset.get('metainfo') or {}).get('palette')
        if palette:
            dataset['metainfo']['palette'] = [tuple(color) for color in palette]  # mmdetection draws in no others
    hook.update(show=True, wait_time=wait_time)
    cls = find_class(HOOKS, hook, cfg)
    if cls is not None and 'out_dir' in list_keywords(cls):  # mmpretrain's
        hook.update(enable=True, interval=1)
    else:
        hook.draw = True


# ---- measurements on features ----


def add_measuring_arguments(parser: argparse.ArgumentParser, num_images: int, batch_size: int) -> None:
    """Add the arguments that :func:`measure` reads."""
    parser.add_argument(
        'models', nargs='+', metavar='CONFIG [CHECKPOINT ...]',
        help='configs (files that end in .py), each followed by its checkpoints; a config without one is '
        'taken as training starts from it')
    add_out_dir_argument(parser)
    parser.add_argument('--names', nargs='+', metavar='NAME', help='what to call the models, in their order')
    add_image_dir_argument(parser, 'a folder of images (default: the test or validation data of the first config)')
    add_num_images_argument(parser, num_images, 'how many images (default: %(default)s)')
    add_batch_size_argument(parser, batch_size)
    add_size_argument(
        parser, 'side of the square that is cut from the middle of each image (default: what fits the images, at '
        'most 512)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='which images are drawn (default: %(default)s)')
    add_device_argument(parser)
    add_cfg_options_argument(parser)


def measure(args: argparse.Namespace, function: Callable[[Any], dict[str, Any]], table: Callable[[dict[str, Any]], str]) -> None:
    """Measure what the arguments of :func:`add_measuring_arguments` ask for; print the table, whose weights they are, and the
    picture.

    Args:
        args: the arguments.
        function: measures a :class:`mmparax.analysis.measuring.Setup` and returns the result, which it has written.
        table: the result as text.
    """
    from mmparax.analysis.measuring import Setup
    from mmparax.analysis.models import parse_sources
    from mmparax.utils.logs import silence_log

    check_seed('seed', args.seed)
    size = args.size
    if size is not None:
        if size[0] != size[1]:
            raise ParameterError('size', size, 'the images are squares', 'Give one number.')
        size = check_int('size', size[0])
    silence_log()
    with explain_interrupt():
        result = function(
            Setup(parse_sources(args.models, args.names), Path(args.out_dir), args.image_dir, args.num_images, args.batch_size,
                  size, args.seed, args.device, args.cfg_options))
    print(table(result))
    for model in result['models']:
        print(f'{model["name"]}: weights of {model["weights"]}')
    print(f'Picture: {(Path(args.out_dir) / result["picture"]).resolve()}')
