#!/usr/bin/env python
"""The main job on real input: ``make quickstart [TASK=segmentation|detection|panoptic|classification]``.

Makes the scenes, freezes a pre-trained mini backbone, trains AdaRoute and a head through tools/train.py, evaluates through
tools/test.py, and ends with the trainable parameters, the metric, the time and a picture. With --compare it does so for AdaRoute,
the frozen backbone and full fine-tuning with several seeds, and writes a table.
"""
import argparse
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from mmparax.cli import ToolParser, tool
from mmparax.errors import check_int, check_seed
from mmparax.utils.tables import format_mean_and_spread

TOOLS = Path(__file__).resolve().parent
FOLDER = TOOLS.parent / 'configs' / 'quickstart'
CONFIGS = dict(segmentation='upernet_swin-mini_{}_1xb8-500_scenes-128x128.py',
               detection='mask-rcnn_convnext-mini_{}_1xb8-400_scenes-128x128.py',
               panoptic='panoptic-fpn_swin-mini_{}_1xb8-300_scenes-128x128.py',
               classification='vit-mini_{}_1xb32-800_scenes-32x32.py')
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


def call(script: str, log: Path, total: int, label: str, *arguments: str) -> str:
    """Run a script of tools/ with its output in a log file and a progress bar; return the output."""
    from mmparax.reproduce.process import run_script

    return run_script([sys.executable, str(TOOLS / script), *arguments], log, label, Path(script).stem, total)


def run(method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one method with one seed; a finished run is not repeated."""
    from mmengine.config import Config

    from mmparax.inference.metrics import select_paper_metrics
    from mmparax.inference.scene_pictures import draw_scene_predictions
    from mmparax.reproduce.settings import build_data_options, build_length_options, format_options
    from mmparax.utils.code_digest import compute_parts_digest, encode_content, read_package_source
    from mmparax.weights.sources import locate

    config = str(FOLDER / CONFIGS[args.task].format(method))
    cfg = Config.fromfile(config)
    iterations = args.iterations or cfg.train_cfg.max_iters
    work_dir = Path(args.work_dir) / args.task / f'{method}_seed{seed}'
    summary, picture = work_dir / 'summary.json', work_dir / 'prediction.png'
    scenes = json.loads((Path(args.data_dir) / 'classes.json').read_text(encoding='utf-8'))
    settings = dict(
        config=Path(config).name, seed=seed, iterations=iterations, scenes=scenes['counts'],
        digest=compute_parts_digest(encode_content(cfg.to_dict()), encode_content(scenes),
                                    locate(cfg.model.backbone.base_checkpoint).read_bytes(), read_package_source()))
    if summary.is_file() and picture.is_file():
        found = json.loads(summary.read_text(encoding='utf-8'))
        if found['settings'] == settings:
            print(f'{METHODS[method]}, seed {seed}: done before, kept in {work_dir}.')
            return found
    options = ['--cfg-options', f'randomness.seed={seed}', *format_options(build_data_options(cfg, args.data_dir))]
    training = options + (format_options(build_length_options(iterations)) if args.iterations else [])
    start, label, checkpoint = time.time(), f'{METHODS[method]}, seed {seed}', str(work_dir / f'iter_{iterations}.pth')
    log = call('train.py', work_dir / 'train.txt', iterations, f'{label}: training', config, '--no-validate', '--work-dir',
               str(work_dir), *training)
    trained = time.time() - start
    tested = call('test.py', work_dir / 'test.txt', 1, f'{label}: evaluating', config, checkpoint, '--work-dir', str(work_dir),
                  *options)
    metrics = json.loads(max(work_dir.glob('*/*.json'), key=os.path.getmtime).read_text(encoding='utf-8'))
    draw_scene_predictions(cfg, checkpoint, args.data_dir, picture, f'{METHODS[method]} on synthetic scenes it has not seen')
    table = re.search(r'( +Parameters *\n.*?┘)', log, re.S)
    rows = re.findall(r'\| +([\w ]+?) +\| +([\d.]+|nan) *\| +[\d.nan]+ *\|', tested) if args.task == 'segmentation' else []
    result = dict(settings=settings, metrics=select_paper_metrics(metrics),
                  classes={name: None if value == 'nan' else float(value) for name, value in rows},
                  seconds_training=round(trained, 1), seconds=round(time.time() - start, 1), table=table.group(1))
    summary.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    return result


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
    results: dict[str, list[dict[str, Any]]] = {method: [run(method, seed, args) for seed in args.seeds] for method in METHODS}
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
    start = time.time()
    write_scenes(args.data_dir, args.num_train, args.num_val)
    if args.compare:
        compare(args)
        return
    result = run(args.method, args.seed, args)
    picture = Path(args.work_dir) / args.task / f'{args.method}_seed{args.seed}' / 'prediction.png'
    metrics = ', '.join(f'{name} {value:.1f}' for name, value in result['metrics'].items() if value is not None)
    metrics = metrics or 'nothing was found'
    crops = args.task == 'classification'
    print(f'\n{result["table"]}\n\n{METHODS[args.method]}: {metrics} on {"crops of " if crops else ""}{args.num_val} scenes not '
          f'seen in training (percent), {result["seconds_training"]:.0f} s of training, {time.time() - start:.0f} s in all.\n'
          f'Picture ({"crops with their predictions" if crops else "input, ground truth, prediction"}): {picture.resolve()}')


if __name__ == '__main__':
    main()
