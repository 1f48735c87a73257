"""One call of tools/analysis_tools/benchmark.py: checks the arguments, measures, prints tables and writes files."""
import argparse
import io
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
from mmparax.errors import ParameterError, TrainingError, check_choice, check_int
from mmparax.ops.recompute import use_recomputation
from mmparax.utils.choices import BACKENDS
from mmparax.utils.devices import resolve_device
from mmparax.utils.launch import keep_freed_memory
from mmparax.utils.logs import silence_log
from mmparax.utils.progress import Progress
from mmparax.utils.storage import check_writable, write

AGAIN = 'Choose another folder.'
ATTENTION = {'on': [True], 'off': [False], 'both': [True, False]}
RECOMPUTE = {'auto': None, 'on': True, 'off': False}


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
    for name in args.ops:
        check_choice('ops', name, BACKENDS)  # of the variable, too, which no parser has checked
    for side in args.size or ():
        check_int('size', side)
    for name in ('batch_size', 'rounds', 'steps_per_turn', 'warmup'):
        check_int(name, getattr(args, name))
    if args.minutes is not None and not (args.minutes > 0 and math.isfinite(args.minutes)):
        raise ParameterError('minutes', args.minutes, 'it must be a number above 0')
    args.threads = count_cores() if args.threads is None else check_int('threads', args.threads)
    args.device = resolve_device(args.device)
    check_choice('device', args.device.type, ['cpu', 'cuda'])
    check_writable(args.out_dir, AGAIN)


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
        with Progress(total=len(rows) * (1 + args.rounds), desc=backbone, file=sys.stderr, leave=False) as bar:

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


def run_session(args: argparse.Namespace) -> None:
    """Do what the arguments of the script ask for."""
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
