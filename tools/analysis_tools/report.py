#!/usr/bin/env python
"""One HTML file about one or several runs: ``python tools/analysis_tools/report.py WORK_DIR [WORK_DIR ...]``."""
import argparse
import sys
from pathlib import Path

from mmparax.cli import ToolParser, add_num_images_argument, add_out_argument, explain_interrupt, tool
from mmparax.errors import MissingFileError, ParameterError, check_int

BENCHMARKS = Path('work_dirs/benchmark')


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Write one HTML file about one or several runs: results, training curves, parameters, speed, effective '
        'receptive fields, similarity of layers, routing, predictions of the same images, and the settings that differ. Runs '
        'whose configs differ only in the seed are put together. The file needs no network and no other file.')
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR',
                        help='work dir of tools/train.py, or folder of a run of tools/reproduce.py')
    add_out_argument(parser, 'report.html', 'HTML file to write')
    parser.add_argument('--title', help='heading (default: what was trained)')
    add_num_images_argument(parser, 4, 'let each run predict N test images; 0 for none (default: %(default)s)')
    parser.add_argument(
        '--analyse', action='store_true',
        help='make the receptive fields, similarities and routing that are missing, in WORK_DIR/analysis; '
        'interrupted, the same command goes on')
    parser.add_argument('--num-analysis-images', type=int, metavar='N',
                        help='with --analyse: look at N images (default: as many as the tools for each do)')
    parser.add_argument('--benchmark', nargs='+', metavar='JSON',
                        help='results of tools/analysis_tools/benchmark.py (default: those in work_dirs/benchmark)')
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmparax.report.analyses import find_analyses, make_analyses
    from mmparax.report.page import make_report
    from mmparax.report.runs import gather_runs
    from mmparax.utils.logs import silence_log
    from mmparax.utils.storage import write

    check_int('num_images', args.num_images, 0)
    out = Path(args.out)
    if out.suffix not in ('.html', '.htm') or out.is_dir():
        raise ParameterError('out', args.out, 'it must be a file whose name ends in .html')
    silence_log()
    if args.num_analysis_images is not None:
        check_int('num_analysis_images', args.num_analysis_images, 4)
    benchmarks = sorted(BENCHMARKS.glob('*.json')) if args.benchmark is None else list(map(Path, args.benchmark))
    for path in benchmarks:
        if not path.is_file():
            raise MissingFileError(f'the benchmark {str(path)!r} does not exist; tools/analysis_tools/benchmark.py makes such '
                                   'files.')
    runs = gather_runs(args.work_dirs)
    with explain_interrupt():
        failed = make_analyses(runs, args.num_analysis_images) if args.analyse else {}
        found = find_analyses(runs)
        for kind, sentences in failed.items():
            found.notes[kind] += sentences
        page = make_report(runs, found, sys.argv[1:], args.num_images, benchmarks, args.title)
    write(out, page.encode(), 'Make room or choose another file, then call the same command again.')
    print(f'{out.resolve()} ({len(page.encode()) / 1e6:.1f} MB), {len(runs)} run(s). Open it in a browser.')


if __name__ == '__main__':
    main()
