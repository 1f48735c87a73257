#!/usr/bin/env python
"""The main job on real input: ``make quickstart [TASK=segmentation|detection|panoptic|classification]``.

Makes the scenes, freezes a pre-trained mini backbone, trains AdaRoute and a head through tools/train.py, evaluates through
tools/test.py, and ends with the trainable parameters, the metric, the time and a picture. Interrupted, the same call goes on.
With --compare it does so for AdaRoute, the frozen backbone and full fine-tuning with several seeds, and writes a table.
"""
import argparse
import json
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmparax.cli import ToolParser, explain_interrupt, tool
from mmparax.errors import check_int, check_seed
from mmparax.utils.storage import write
from mmparax.utils.tables import format_mean_and_spread

TOOLS = Path(__file__).resolve().parent
FOLDER = TOOLS.parent / 'configs' / 'quickstart'
CONFIGS = dict(segmentation='upernet_swin-mini_{}_1xb8-500_scenes-128x128.py',
               detection='mask-rcnn_convnext-mini_{}_1xb8-400_scenes-128x128.py',
               panoptic='panoptic-fpn_swin-mini_{}_1xb8-300_scenes-128x128.py',
               classification='vit-mini_{}_1xb32-800_scenes-32x32.py')
CHECKPOINTS = 10  # of a training: where an interrupted one goes on
METHODS = dict(frozen='Frozen (head only)', adaroute='AdaRoute', full='full fine-tuning')


def build_parser() -> ToolParser:
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument('--task', choices=list(CONFIGS), default='segmentation', help='what to train for (default: %(default)s)')
    parser.add_argument('--method', choices=sorted(METHODS), default='adaroute', help='what to train (default: adaroute)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='seed of the training (default: %(default)s)')
    parser.add_argument('--compare', action='store_true', help='train every method with every seed and write a table')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N',
                        help='seeds for --compare (default: 0 1 2)')
    parser.add_argument('--iterations', type=int, metavar='N', help="training iterations (default: the config's)")
    parser.add_argument('--data-dir', default='data/scenes', metavar='DIR', help='folder of the scenes (default: %(default)s)')
    parser.add_argument('--num-train', type=int, default=800, metavar='N', help='training scenes (default: %(default)s)')
    parser.add_argument('--num-val', type=int, default=200, metavar='N', help='validation scenes (default: %(default)s)')
    parser.add_argument('--work-dir', default='work_dirs/quickstart', metavar='DIR',
                        help='folder for all results (default: %(default)s)')
    return parser


def call(script: str, log: Path, total: int, *arguments: str, append: bool = False) -> str:
    """Run a script of tools/ with its output in a log file and a line of progress; return the output."""
    from mmparax.reproduce.process import run_script

    label = dict(train='training', test='evaluation')[Path(script).stem]
    command = [sys.executable, str(TOOLS / script), *arguments]
    return run_script(command, log, label, Path(script).stem, total, append=append)


@contextmanager
def measure(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the seconds that something takes to those of its phase, also if it is interrupted."""
    start = time.time()
    try:
        yield
    finally:
        seconds[phase] = round(seconds.get(phase, 0) + time.time() - start, 1)


class Run:
    """One method with one seed: its folder, and what is done of it.

    ``run.json`` says for which settings the checkpoints are, and how long each phase took so far; ``summary.json`` is written
    last.

    Args:
        method, seed: what to train.
        args: the arguments of the script.
    """

    def __init__(self, method: str, seed: int, args: argparse.Namespace):
        from mmengine.config import Config

        from mmparax.reproduce.settings import build_data_options, format_options

        self.method, self.seed, self.args = method, seed, args
        self.config = str(FOLDER / CONFIGS[args.task].format(method))
        self.cfg = Config.fromfile(self.config)
        self.iterations = args.iterations or self.cfg.train_cfg.max_iters
        self.folder = Path(args.work_dir) / args.task / f'{method}_seed{seed}'
        self.checkpoint = self.folder / f'iter_{self.iterations}.pth'
        self.picture = self.folder / 'prediction.png'
        self.options = [f'randomness.seed={seed}', *format_options(build_data_options(self.cfg, args.data_dir))]
        self.settings = self._collect_settings()

    def _collect_settings(self) -> dict[str, Any]:
        """All that the result depends on."""
        from mmparax.utils.code_digest import compute_parts_digest, encode_content, read_package_source
        from mmparax.weights.sources import locate

        scenes = json.loads((Path(self.args.data_dir) / 'classes.json').read_text(encoding='utf-8'))
        base = locate(self.cfg.model.backbone.base_checkpoint).read_bytes()
        digest = compute_parts_digest(encode_content(self.cfg.to_dict()), encode_content(scenes), base, read_package_source())
        return dict(config=Path(self.config).name, seed=self.seed, iterations=self.iterations, scenes=scenes['counts'],
                    digest=digest)

    def read(self, name: str) -> dict[str, Any]:
        """Content of a JSON file of the folder, if it is about these settings; else empty."""
        path = self.folder / name
        found = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
        return found if found.get('settings') == self.settings else {}

    def write(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(dict(settings=self.settings, **content), indent=1) + '\n'
        write(self.folder / name, text.encode(), 'Make room, then call the same command again.')

    def do(self) -> dict[str, Any]:
        """Train, evaluate and draw what is not done yet; return what summary.json holds."""
        from mmparax.utils.locks import in_use

        label = f'{METHODS[self.method]}, seed {self.seed}'
        found = self.read('summary.json')
        if found and self.picture.is_file():
            print(f'{label}: done before, kept in {self.folder}.')
            return found
        seconds: dict[str, float] = self.read('run.json').get('seconds', {})
        if not seconds and not in_use(self.folder):
            for path in (*self.folder.glob('iter_*.pth'), self.folder / 'last_checkpoint', self.folder / 'train.txt'):
                path.unlink(missing_ok=True)  # of other settings
            self.write('run.json', dict(seconds=dict(training=0)))
        print(f'{label}, {self.args.task}, {self.iterations} iterations; the whole output is in {self.folder}/*.txt')
        try:
            with measure(seconds, 'training'):
                self._train()
            with measure(seconds, 'evaluation'):
                tested = call('test.py', self.folder / 'test.txt', 1, self.config, str(self.checkpoint), '--work-dir',
                              str(self.folder), '--cfg-options', *self.options, 'default_hooks.logger.interval=5')
            result = self._collect_result(tested)
            with measure(seconds, 'picture'):
                self._draw(result)
        finally:
            self.write('run.json', dict(seconds=seconds))
        result = dict(result, seconds=seconds, seconds_training=seconds['training'])
        self.write('summary.json', result)
        return dict(result, settings=self.settings)

    def _train(self) -> None:
        """Train, or go on from the last checkpoint of an interrupted training."""
        from mmparax.reproduce.settings import build_length_options, format_options

        if self.checkpoint.is_file():
            return
        length = build_length_options(self.iterations) if self.args.iterations else {}
        length.update(
            {'default_hooks.checkpoint.interval': max(1, self.iterations // CHECKPOINTS), 'default_hooks.logger.interval': 10})
        call('train.py', self.folder / 'train.txt', self.iterations, self.config, '--no-validate', '--resume', '--work-dir',
             str(self.folder), '--cfg-options', *self.options, *format_options(length), append=True)

    def _collect_result(self, tested: str) -> dict[str, Any]:
        """Metrics of the evaluation, and the table of parameters from the training's log."""
        from mmparax.inference.metrics import select_paper_metrics

        metrics = json.loads(max(self.folder.glob('*/*.json'), key=os.path.getmtime).read_text(encoding='utf-8'))
        table = re.search(r'( +Parameters *\n.*?┘)', (self.folder / 'train.txt').read_text(encoding='utf-8'), re.S)
        rows = re.findall(r'\| +([\w ]+?) +\| +([\d.]+|nan) *\| +[\d.nan]+ *\|', tested)
        classes = {name: None if value == 'nan' else float(value) for name, value in rows}
        return dict(metrics=select_paper_metrics(metrics), classes=classes if self.args.task == 'segmentation' else {},
                    table=table.group(1))

    def _draw(self, result: dict[str, Any]) -> None:
        from mmparax.inference.scene_pictures import draw_scene_predictions
        from mmparax.utils.progress import Progress

        share = re.search(r'trainable in backbone.*?([\d.]+%)', result['table'])
        subtitle = f'{describe_metrics(self.args, result)} · trained: {share.group(1) if share else "100%"} of the backbone'
        with Progress(desc='picture', total=1) as bar:

            def report(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            draw_scene_predictions(self.cfg, str(self.checkpoint), self.args.data_dir, self.picture,
                                   f'{METHODS[self.method]} on synthetic scenes it has not seen', subtitle, report)


def describe_metrics(args: argparse.Namespace, result: dict[str, Any]) -> str:
    """The metrics of a run, and on what they were measured."""
    metrics = ', '.join(f'{name} {value:.1f}' for name, value in result['metrics'].items() if value is not None)
    crops = 'crops of ' if args.task == 'classification' else ''
    return f'{metrics or "nothing was found"} on {crops}{args.num_val} scenes'


def collect_scores(result: dict[str, Any]) -> dict[str, float]:
    """The metrics of a run, and of a segmentation the mean IoU of surfaces and digits (those that occur in the scenes)."""
    from mmparax.datasets.synthetic.scenes import STUFF_CLASSES, THING_CLASSES

    columns = dict(result['metrics'])
    for label, names in (('surfaces', STUFF_CLASSES), ('digits', THING_CLASSES)):
        values = [result['classes'][name] for name in names if result['classes'].get(name) is not None]
        if values:
            columns[label] = statistics.mean(values)
    return {name: float('nan') if value is None else value for name, value in columns.items()}


def compare(args: argparse.Namespace) -> None:
    """Run every method with every seed and write the table as Markdown and JSON."""
    results: dict[str, list[dict[str,
                                 Any]]] = {method: [Run(method, seed, args).do() for seed in args.seeds] for method in METHODS}
    names = list(collect_scores(results['adaroute'][0]))
    lines = [
        '| method | ' + ' | '.join(names) + f' | {names[0]} of seeds {", ".join(map(str, args.seeds))} | training |',
        '|---|' + '---|' * (len(names) + 2)
    ]
    for method, runs in results.items():
        columns = [[collect_scores(result)[name] for result in runs] for name in names]
        seconds = statistics.mean(result['seconds_training'] for result in runs)
        lines.append(f'| {METHODS[method]} | ' + ' | '.join(map(format_mean_and_spread, columns)) + ' | '
                     + ', '.join(f'{score:.1f}' for score in columns[0]) + f' | {seconds:.0f} s |')
    folder = Path(args.work_dir) / args.task
    (folder / 'comparison.md').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    (folder / 'comparison.json').write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')
    print('\n' + '\n'.join(lines) + f'\n\nWritten to {folder / "comparison.md"} and {folder / "comparison.json"}.')


@tool(build_parser, out_dir='data_dir')
def main(args: argparse.Namespace) -> None:
    from mmparax.datasets.synthetic.writers import write_scenes

    if args.iterations is not None:
        check_int('iterations', args.iterations, 2)
    for name in ('num_train', 'num_val'):
        check_int(name, getattr(args, name))
    for seed in (args.seed, *args.seeds):
        check_seed('seed', seed)
    seconds: dict[str, float] = {}
    with explain_interrupt():
        with measure(seconds, 'scenes'):
            write_scenes(args.data_dir, args.num_train, args.num_val)
        if args.compare:
            compare(args)
            return
        run = Run(args.method, args.seed, args)
        result = run.do()
        print('\n' + describe_run(run, result, {**seconds, **result['seconds']}))


def describe_run(run: Run, result: dict[str, Any], seconds: dict[str, float]) -> str:
    """What a person wants to know in the end: parameters, metric, times, the picture, and what to do next."""
    python, docs = shorten(sys.executable), shorten(str(TOOLS.parent / 'docs'))
    tools = shorten(str(TOOLS))
    times = ', '.join(f'{phase} {value:.0f} s' for phase, value in seconds.items())
    what = 'crops with their predictions' if run.args.task == 'classification' else \
        'input, ground truth, prediction, right and wrong'
    own = f'{python} {tools}/dataset_tools/prepare_masks.py IMAGES MASKS --out-dir data/mine --config configs/mine.py' \
        if run.args.task == 'segmentation' else f'less {docs}/own_data.md'
    return (f'{result["table"]}\n\n'
            f'{METHODS[run.method]}: {describe_metrics(run.args, result)} not seen in training (percent)\n'
            f'Time: {times}; {sum(seconds.values()):.0f} s in all\n'
            f'Picture ({what}): {run.picture.resolve()}\n\n'
            f'Your own data:  {own}\n'
            f'A report:       {python} {tools}/analysis_tools/report.py {run.folder} --out report.html\n'
            f'How it works:   less {docs}/design.md')


def shorten(path: str) -> str:
    """A path from here if it is below, as a word of a command."""
    relative = os.path.relpath(path)
    return shlex.quote(path if relative.startswith('..') else relative)


if __name__ == '__main__':
    main()
