#!/usr/bin/env python
"""Time training steps of adapted backbones beside full fine-tuning: ``python tools/analysis_tools/benchmark.py``."""
import argparse
import io
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmparax.benchmark.candidates import (
    ALIASES,
    Candidate,
    check_names,
    choose_size,
    list_backbones,
    list_candidates,
    list_methods,
)
from mmparax.benchmark.saved_memory import format_saved_table, measure_saved
from mmparax.benchmark.timing import (
    DTYPES,
    MEMORY,
    OUT_OF_MEMORY,
    InterleavedTimer,
    Workload,
    explain_failure,
    keep_compiled_graphs,
    profile_step,
    use_threads,
)
from mmparax.benchmark.timing_report import Comparison, count_cores, describe_environment, draw_chart
from mmparax.cli import ToolParser, add_batch_size_argument, add_device_argument, add_out_dir_argument, add_size_argument, tool
from mmparax.errors import ParameterError, StorageError, TrainingError, check_choice, check_int
from mmparax.ops.dispatch import BACKENDS, get_backend
from mmparax.ops.recompute import use_recomputation
from mmparax.utils.devices import resolve_device
from mmparax.utils.launch import keep_freed_memory
from mmparax.utils.logs import silence_log
from mmparax.utils.storage import write

AGAIN = 'Choose another folder.'
METHODS = ['full', 'adaroute', 'plain-adaroute', 'plain-mona', 'frozen']
ATTENTION = {'on': [True], 'off': [False], 'both': [True, False]}
RECOMPUTE = {'auto': None, 'on': True, 'off': False}
PRESETS = {
    'cpu': dict(backbone=['swin-b', 'convnext-b'], size=(320, 320), batch_size=1, precision=['fp32'], device='cpu', rounds=4,
                minutes=3.6, methods=METHODS, efficient_attention='both'),
    'table11': dict(
        backbone=['swin-l'], size=(1280, 800), batch_size=4, precision=['fp16'], device='cuda', rounds=20, warmup=5,
        steps_per_turn=5, methods=[
            'full', 'lora', 'adaptformer', 'lorand', 'mona', 'adaroute-no-conv', 'adaroute', 'plain-adaroute', 'plain-mona',
            'frozen'
        ], efficient_attention='both'),
}


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Time the training step (forward, backward, optimizer) and the inference of a backbone with each method '
        'on random data, side by side in one run, and measure memory. "full" is the toolbox\'s own backbone in which '
        'every parameter is trainable; plain-adaroute and plain-mona are the two written plainly, for comparison. Sizes are '
        'those of the shipped configs; a method without a config for the backbone has its defaults.')
    parser.add_argument(
        '--preset', choices=list(PRESETS), help="settings that other options change. cpu: Swin-B and "
        "ConvNeXt-B at 320x320, under 5 minutes on 2 cores; table11: the paper's Table 11, for a GPU")
    what = parser.add_argument_group('what')
    what.add_argument('--backbone', nargs='+', default=['swin-b'], metavar='NAME',
                      help=f'{", ".join(list_backbones())} (default: swin-b)')
    what.add_argument('--methods', nargs='+', metavar='NAME', default=METHODS,
                      help=f'{", ".join(list_methods())} (default: {" ".join(METHODS)})')
    add_size_argument(what, 'height and width in pixels (default: 320 320; ViT: its own)')
    add_batch_size_argument(what, 1, 'images in a step')
    what.add_argument('--precision', nargs='+', default=['fp32'], choices=list(DTYPES),
                      help='fp16 and bf16 by automatic mixed precision (default: fp32)')
    add_device_argument(what)
    what.add_argument('--threads', type=int, metavar='N', help='of the CPU (default: all cores)')
    how = parser.add_argument_group('which operations')
    how.add_argument('--ops', nargs='+', default=[get_backend()], choices=BACKENDS,
                     help="backends of AdaRoute's operations, each a row (default: %(default)s, that of MMPARAX_OPS)")
    how.add_argument('--efficient-attention', choices=list(ATTENTION), default='on',
                     help='the frozen attention computed efficiently (Swin); both: a row for each (default: %(default)s)')
    how.add_argument('--compile', action='store_true', help='torch.compile every model')
    how.add_argument('--with-cp', action='store_true', help='recompute activations in the backward pass')
    how.add_argument('--recompute', choices=list(RECOMPUTE), default='auto', help='adapters compute wide activations again '
                     'rather than keep them (default: auto, on a GPU)')
    rounds = parser.add_argument_group('how long')
    rounds.add_argument('--rounds', type=int, default=10, metavar='N', help='turns of each model (default: %(default)s)')
    rounds.add_argument('--steps-per-turn', type=int, default=1, metavar='N', help='steps in a turn (default: %(default)s)')
    rounds.add_argument('--warmup', type=int, default=1, metavar='N', help='steps of each model before (default: %(default)s)')
    rounds.add_argument('--minutes', type=float, help='begin no round after so many minutes, shared by the backbones')
    parser.add_argument('--saved', action='store_true',
                        help='measure instead what autograd saves for the backward pass, by block and token')
    parser.add_argument('--profile', action='store_true', help='show instead which operations a training step spends its time in')
    add_out_dir_argument(parser, 'work_dirs/benchmark', 'folder of the JSON and the chart')
    preset = parser.parse_known_args()[0].preset
    parser.set_defaults(**PRESETS.get(preset, {}))
    return parser


def describe_command() -> str:
    """The command line without the folder for results."""
    words, skip = [], False
    for word in sys.argv[1:]:
        if not skip and word != '--out-dir' and not word.startswith('--out-dir='):
            words.append(word)
        skip = word == '--out-dir'
    return shlex.join(['python', 'tools/analysis_tools/benchmark.py', *words])


def check_arguments(args: argparse.Namespace) -> None:
    """Check every argument and give it its type."""
    args.backbone = check_names('backbone', [ALIASES.get(name, name) for name in args.backbone], list_backbones())
    args.methods = check_names('methods', args.methods, list_methods())
    for side in args.size or ():
        check_int('size', side)
    for name in ('batch_size', 'rounds', 'steps_per_turn', 'warmup'):
        check_int(name, getattr(args, name))
    if args.minutes is not None and args.minutes <= 0:
        raise ParameterError('minutes', args.minutes, 'it must be a number above 0')
    args.threads = count_cores() if args.threads is None else check_int('threads', args.threads)
    args.device = resolve_device(args.device)
    check_choice('device', args.device.type, ['cpu', 'cuda'])
    check_writable(Path(args.out_dir))


def check_writable(folder: Path) -> None:
    """Raise StorageError if nothing can be written to a folder: better now than after the measurement."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(f'{str(folder)!r} cannot be written to: {error.strerror}. {AGAIN}') from error


def list_rows(args: argparse.Namespace, backbone: str) -> tuple[list[Candidate], Workload]:
    """What runs on a backbone, and what it does."""
    size = args.size or choose_size(backbone)
    rows = list_candidates(backbone, args.methods, size, args.batch_size, list(dict.fromkeys(args.precision)),
                           list(dict.fromkeys(args.ops)), ATTENTION[args.efficient_attention], args.with_cp)
    return rows, Workload(size, args.batch_size, args.device, args.rounds, args.warmup, args.steps_per_turn, args.minutes
                          and 60 * args.minutes / len(args.backbone), args.compile)


def compare(args: argparse.Namespace, done: list[Comparison]) -> None:
    """Measure every backbone and print its table; ``done`` grows, by what was measured before an interrupt, too."""
    for backbone in args.backbone:
        rows, work = list_rows(args, backbone)
        with tqdm(total=len(rows) * (1 + args.rounds), desc=backbone, file=sys.stderr, leave=False) as bar:

            def progress(text: str) -> None:
                bar.set_postfix_str(text, refresh=False)
                bar.update()

            timer = InterleavedTimer(rows, work, progress)
            try:
                timer.run()
            finally:
                bar.close()
                done.append(Comparison(backbone, work, timer.measurements, args.with_cp, timer.stopped))
                print(done[-1].format_table(), flush=True)


def save(args: argparse.Namespace, done: Sequence[Comparison], facts: Any) -> None:
    """Write the JSON and the chart."""
    folder = Path(args.out_dir)
    memory = MEMORY[args.device.type]
    picture = io.BytesIO()
    draw_chart(done).savefig(picture, dpi=120, format='png')
    write(
        folder / 'benchmark.json',
        json.dumps(dict(environment=facts, memory=memory, comparisons=[comparison.to_dict() for comparison in done]),
                   indent=1).encode(), AGAIN)
    write(folder / 'benchmark.png', picture.getvalue(), AGAIN)
    if any(measurement.error == OUT_OF_MEMORY for comparison in done for measurement in comparison.measurements):
        print('Out of memory beside the other models, which stay loaded: --methods with fewer may show that it fits alone.')
    print(f'img/s: median of the rounds. Peak memory: {memory}.')
    print(f'Written: {folder / "benchmark.json"}, {folder / "benchmark.png"}')


def show_profiles(args: argparse.Namespace) -> None:
    """Print where a training step spends its time."""
    for backbone in args.backbone:
        rows, work = list_rows(args, backbone)
        for candidate in rows:
            print(f'{backbone}, {candidate.label}:')
            try:
                with keep_compiled_graphs(work, len(rows)):
                    print(profile_step(candidate, work), flush=True)
            except Exception as error:  # as in the comparison: the others are shown
                print(explain_failure(error, work.device))


def show_saved(args: argparse.Namespace) -> None:
    """Print and write what autograd saves."""
    found = []
    for backbone in args.backbone:
        size = args.size or choose_size(backbone)
        rows = measure_saved(backbone, args.methods, size, args.batch_size, ATTENTION[args.efficient_attention], args.with_cp)
        print(format_saved_table(backbone, size, args.batch_size, rows), flush=True)
        found.append(
            dict(backbone=backbone, size=list(size), batch=args.batch_size, with_cp=args.with_cp,
                 rows=[asdict(row) for row in rows]))
    path = Path(args.out_dir) / 'saved_memory' / 'saved_memory.json'
    write(path, json.dumps(dict(command=describe_command(), comparisons=found), indent=1).encode(), AGAIN)
    print(f'Written: {path}')


@tool(build_parser, backend='ops')
def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    silence_log()
    os.environ.setdefault('KINETO_LOG_LEVEL', '5')  # it complains where there is no GPU
    if args.device.type == 'cpu':
        keep_freed_memory()  # as tools/train.py does
    with use_threads(args.threads), use_recomputation(RECOMPUTE[args.recompute]):
        if args.saved or args.profile:
            show_saved(args) if args.saved else show_profiles(args)
            return
        facts = describe_environment(args.device, args.threads, describe_command())
        done: list[Comparison] = []
        try:
            compare(args, done)
        except KeyboardInterrupt:
            save(args, done, facts)
            sys.exit(130)
        save(args, done, facts)
    if not any(measurement.training for comparison in done for measurement in comparison.measurements):
        raise TrainingError('no method could be measured: the table says why.')


if __name__ == '__main__':
    main()
