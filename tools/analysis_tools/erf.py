#!/usr/bin/env python
"""Compare effective receptive fields: ``python tools/analysis_tools/erf.py CONFIG CHECKPOINT --out DIR``."""
import argparse
import logging
import warnings
from pathlib import Path

from mmengine.logging import MMLogger

from mmparax.analysis.erf import erf_table, measure_erf
from mmparax.analysis.measuring import add_arguments, continuable, setup_of
from mmparax.cli import tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure on which pixels the middle of a feature map depends (Luo et al., 2016): the gradient of its '
        'channels by the input, averaged over images. Several models see the same images and are drawn side by side. Writes '
        'erf.png, erf.json and erf.npz. Interrupted, the same command goes on.')
    add_arguments(parser, num_images=64, batch_size=8)
    parser.add_argument('--stage', type=int, metavar='N', help="of the backbone, from 1 on (default: each model's last)")
    return parser.parse_args()


@tool
def main() -> None:
    args = parse_args()
    MMLogger.get_instance('mmengine', log_level=logging.ERROR)
    warnings.simplefilter('ignore')
    with continuable():
        result = measure_erf(setup_of(args), args.stage)
    print(erf_table(result))
    for model in result['models']:
        print(f'{model["name"]}: weights of {model["weights"]}')
    print(f'Picture: {(Path(args.out) / result["picture"]).resolve()}')


if __name__ == '__main__':
    main()
