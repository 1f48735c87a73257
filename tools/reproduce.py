#!/usr/bin/env python
"""Run the paper's tables and compare: ``python tools/reproduce.py --list | --table N | --report FILE``."""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmparax.cli import ToolParser, add_gpus_argument, end_interrupted, tool
from mmparax.errors import InputError, ParameterError, check_int, check_seed
from mmparax.utils.progress import Progress

if TYPE_CHECKING:
    from mmparax.reproduce.entries import TableEntry
    from mmparax.reproduce.runner import RunOutcome, ScriptLauncher, TableRunner

SCENES = (800, 200)  # training and validation
MIN_WIDTHS = {'row': 12, 'config': 12, 'published, %': 14, 'state': 12}  # of the columns of --list that may be folded


def build_parser() -> ToolParser:
    parser = ToolParser(
        description="Runs every entry of the paper's Tables 1-10, at the paper's scale or on small synthetic scenes: what is "
        'missing is run, what stopped is resumed, what is done is kept. docs/reproduce.md explains it.')
    job = parser.add_argument_group('what to do (to run, give --table alone)')
    job.add_argument('--list', action='store_true',
                     help='list the table entries with their parameters, published numbers and state')
    job.add_argument('--json', action='store_true', help='with --list: as JSON')
    job.add_argument('--report', metavar='FILE', help='write published and measured numbers to a .md or .html file')
    job.add_argument('--dry-run', action='store_true', help='print the commands and run nothing')
    entries = parser.add_argument_group('which table entries')
    entries.add_argument('--table', type=int, nargs='+', action='extend', metavar='N', help='tables, 1-10')
    entries.add_argument('--row', nargs='+', action='extend', metavar='NAME', help='rows: methods, or variants of an ablation')
    entries.add_argument('--backbone', nargs='+', action='extend', metavar='NAME', help='backbones, e.g. swin-b')
    entries.add_argument('--scale', choices=['full', 'tiny'], default='full',
                         help="full: the paper's; tiny: synthetic scenes and mini backbones, on a CPU or one GPU (default: full)")
    seeds = entries.add_mutually_exclusive_group()
    seeds.add_argument('--num-seeds', type=int, default=1, metavar='N', help='how many seeds, from 0 on (default: %(default)s)')
    seeds.add_argument('--seeds', type=int, nargs='+', metavar='N', help='the seeds themselves')
    how = parser.add_argument_group('how to run')
    how.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher (default: none)')
    add_gpus_argument(how, None, "GPUs of a run; the batch stays the recipe's (default: 4 with a launcher, else 1)")
    how.add_argument('--partition', default='', help="partition of the Slurm cluster (default: the cluster's)")
    how.add_argument('--iterations', type=int, metavar='N',
                     help='tiny scale: iterations of each training; give --list and --report the same')
    how.add_argument(
        '--data-dir', default='data/scenes', metavar='DIR',
        help='tiny scale: folder of the scenes, made if absent; give --list and --report the same '
        '(default: %(default)s)')
    how.add_argument('--rerun-outdated', action='store_true', help='run again what is done by other code than the present one')
    how.add_argument('--work-dir', default='work_dirs/reproduce', metavar='DIR', help='folder of all runs (default: %(default)s)')
    return parser


def choose_launcher(args: argparse.Namespace) -> ScriptLauncher:
    """How to start the runs; raises InputError for what does not go together."""
    from mmparax.reproduce.runner import ScriptLauncher

    if args.gpus is not None:
        check_int('gpus', args.gpus)
    if args.iterations is not None:
        check_int('iterations', args.iterations, 4)
        if args.scale == 'full':
            raise ParameterError('iterations', args.iterations, "it is for --scale tiny; the paper's recipes have lengths")
    if args.scale == 'tiny' and (args.launcher != 'none' or args.gpus not in (None, 1)):
        raise InputError('--scale tiny runs in one process, on a GPU if there is one: leave --gpus and --launcher out.')
    if args.launcher == 'none' and args.gpus not in (None, 1):
        raise ParameterError('gpus', args.gpus, 'several GPUs need a launcher', 'Add --launcher pytorch or --launcher slurm.')
    return ScriptLauncher(args.launcher, args.gpus or (1 if args.launcher == 'none' else 4), args.partition)


def check_gpus(args: argparse.Namespace, launcher: ScriptLauncher) -> None:
    """Full scale needs GPUs; under Slurm they are elsewhere."""
    import torch

    found = torch.cuda.device_count()
    if args.scale == 'tiny' or args.launcher == 'slurm' or found >= launcher.gpus:
        return
    problem = f'this machine has {found or "no"} GPU{"s" if found != 1 else ""} and a run at full scale needs {launcher.gpus}'
    if not args.dry_run:
        raise InputError(f'{problem}: use --scale tiny, --gpus, --launcher slurm, or --dry-run to see the commands.')
    print(f'Warning: {problem}.', file=sys.stderr)


def describe(runner: TableRunner, entries: list[TableEntry], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The table entries for ``--list``, every one of them with its parameters counted and its state."""
    from mmparax.reproduce.state import DONE, list_seeds, summarize_states

    descriptions = []
    for entry in Progress(entries, desc='entries', unit='entry', file=sys.stderr):
        known = {*seeds, *list_seeds(runner.get_folder(entry, 0).path.parent)}
        states = {seed: runner.read_state(entry, seed) for seed in sorted(known)}
        descriptions.append(
            dict(table=entry.table, row=entry.row, backbone=entry.backbone, method=entry.method, dataset=entry.dataset,
                 config=os.path.relpath(runner.scale.locate_config(entry, 0,
                                                                   runner.get_folder(entry, 0).path)),
                 params_published=read_published(runner, entry, lambda paper: paper.params_published),
                 params_built=runner.scale.count_parameters(entry),
                 published=read_published(runner, entry, lambda paper: dict(paper.published)),
                 measured={seed: state.result['metrics'] for seed, state in states.items()
                           if state.kind == DONE}, state=summarize_states(states)))
    runner.scale.counter.save()
    return descriptions


def read_published(runner: TableRunner, entry: TableEntry, value: Callable[[TableEntry], Any]) -> Any:
    """A published number; of an entry at tiny scale, a number for each entry of the paper that it stands for."""
    if runner.scale.name == 'tiny' and entry.papers:
        return {f'{paper.backbone} {paper.dataset}': value(paper) for paper in entry.papers}
    return value(entry)


def make_table(rows: list[dict[str, Any]], tiny: bool) -> Table:
    """The table entries as a table of text."""
    from mmparax.reproduce.report import NONE, format_millions

    table = Table(title='Table entries; parameters: trainable in the backbone, in millions', box=SIMPLE_HEAD, show_edge=False,
                  padding=0)  # all of it in 100 columns
    for column in ('table', 'row', 'backbone', 'data set', 'config', 'published', 'built', 'published, %', 'state'):
        if not (tiny and column.startswith('published')):
            table.add_column(column, overflow='fold', no_wrap=column not in MIN_WIDTHS, min_width=MIN_WIDTHS.get(column),
                             justify='right' if column in ('table', 'published', 'built') else 'left')
    for row in rows:
        numbers = [] if tiny else [format_millions(row['params_published'])]
        metrics = [] if tiny else [' '.join(f'{value:.1f}' for value in row['published'].values()) or NONE]
        table.add_row(str(row['table']), row['row'], row['backbone'], row['dataset'],
                      Path(row['config']).stem, *numbers, format_millions(row['params_built'] / 1e6, 3), *metrics, row['state'])
    return table


def make_console(stream: Any = None) -> Console:
    """A console that does not break the lines of a table where they are not looked at on a screen."""
    file = stream or sys.stdout
    return Console(file=file, highlight=False, width=None if file.isatty() else 240)


def make_scenes(data: str) -> None:
    """Write the scenes unless there are some."""
    from mmparax.datasets.synthetic.writers import write_scenes

    if not (Path(data) / 'classes.json').is_file():
        write_scenes(data, *SCENES)


def show_outcomes(outcomes: list[RunOutcome]) -> None:
    """A table of what became of the runs."""
    table = Table(title='Runs')
    for column in ('run', 'result'):
        table.add_column(column, overflow='fold')
    for outcome in outcomes:
        table.add_row(str(outcome.run), outcome.text, style=dict(failed='red', skipped='yellow').get(outcome.kind))
    make_console().print(table)


def save_report(runner: TableRunner, entries: list[TableEntry], path: Path, seeds: Sequence[int]) -> None:
    """Write a report and say where."""
    from mmparax.reproduce.pages import write_report
    from mmparax.reproduce.report import TablesReport

    write_report(TablesReport(runner, entries, path.parent, seeds), path)
    runner.scale.counter.save()
    print(f'Report: {path}')


@tool(build_parser, out_dir='data_dir')
def main(args: argparse.Namespace) -> None:
    from mmparax.benchmark.parameter_counts import ParameterCounter
    from mmparax.reproduce.entries import select_entries
    from mmparax.reproduce.full import FullScale
    from mmparax.reproduce.pages import check_report_path
    from mmparax.reproduce.runner import TableRunner
    from mmparax.reproduce.state import FAILED
    from mmparax.reproduce.tiny import TinyScale
    from mmparax.utils.logs import silence_log

    silence_log()
    launcher = choose_launcher(args)
    seeds = args.seeds or range(check_int('num_seeds', args.num_seeds))
    for seed in seeds:
        check_seed('seeds', seed)
    target = check_report_path(args.report) if args.report else None
    counter = ParameterCounter()
    scale = TinyScale(counter, args.data_dir, args.iterations) if args.scale == 'tiny' else FullScale(counter)
    entries = select_entries(scale.entries, args.table, args.row, args.backbone)
    runner = TableRunner(scale, Path(args.work_dir), launcher, lambda text: print(text, flush=True), args.rerun_outdated)
    if args.list:
        rows = describe(runner, entries, seeds)
        if args.json:
            print(json.dumps(rows, indent=1))
        else:
            make_console().print(make_table(rows, args.scale == 'tiny'))
        return
    if target:
        save_report(runner, entries, target, seeds)
        return
    if args.table is None:
        raise InputError('there is nothing to do: give --list, --report FILE, or --table N to run a table.')
    check_gpus(args, launcher)
    runs = runner.list_runs(entries, seeds)
    if args.dry_run:
        runner.print_commands(runs)
        return
    if args.scale == 'tiny':
        make_scenes(args.data_dir)
    try:
        outcomes = runner.run_all(runs)
    except KeyboardInterrupt:
        end_interrupted('the same command goes on from the last checkpoint.')
    show_outcomes(outcomes)
    tables = '-'.join(map(str, sorted({entry.table for entry in entries})))
    for suffix in ('md', 'html'):
        whole = [entry for entry in scale.entries if entry.table in {chosen.table for chosen in entries}]
        save_report(runner, whole, Path(args.work_dir) / args.scale / f'table{tables}.{suffix}', seeds)
    if any(outcome.kind == FAILED for outcome in outcomes):
        sys.exit(1)


if __name__ == '__main__':
    main()
