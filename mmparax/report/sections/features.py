"""The sections about features: effective receptive fields, and similarity of blocks."""
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize

from mmparax.analysis.erf import DECADES, compute_square_shares
from mmparax.report.analyses import AnalysisResults
from mmparax.report.charts import draw_color_bar, draw_curves_chart, draw_matrix_chart
from mmparax.report.content import (
    NONE,
    Chart,
    ChartRow,
    Paragraph,
    Picture,
    PictureRow,
    ReportSection,
    ReportTable,
    TableField,
    make_series_keys,
)
from mmparax.report.groups import RunGroup, label_run
from mmparax.report.sections.common import (
    collect_results,
    describe_seeds,
    format_mean,
    list_missing,
    to_array,
    warn_of_conditions,
)
from mmparax.report.svg import make_data_uri
from mmparax.utils.tables import format_mean_and_spread

ERF_COLORS, CKA_COLORS = 'inferno', 'viridis'

# ---- effective receptive fields ----


def build_receptive_fields(groups: Sequence[RunGroup], found: AnalysisResults) -> ReportSection:
    """Build the section about the pixels on which the middle of the last map depends."""
    section, results = ReportSection('erf', 'Effective receptive field'), collect_results('erf', found, groups)
    shown = [group for group in groups if group.number in results]
    if shown:
        every = [result for values in results.values() for result in values]
        first = every[0]
        stage = f'stage {first["stage"]}' if first.get('stage') else 'the last stage'
        section.blocks.append(
            Paragraph(f'How much each pixel of an image counts for the middle of the feature map of {stage}: the gradient of its '
                      f'channels by the input (Luo et al., 2016), averaged over {first["images"]} images of '
                      f'{first["size"]}x{first["size"]} pixels.'
                      + warn_of_conditions(every, ('size', 'images', 'stage', 'seed'))))
        keys = list(first['model']['area_ratios'])
        section.blocks.append(
            ReportTable(
                'Area of the smallest centred square that holds a share of all contributions, in % of the image; larger is wider.'
                + describe_seeds(results), ['setting', *(f'{float(key):.0%}' for key in keys)], [[
                    TableField(group.label, number=group.number),
                    *(format_mean_and_spread([100 * result['model']['area_ratios'][key]
                                              for result in results[group.number]]) if all(
                                                  key in result['model']['area_ratios']
                                                  for result in results[group.number]) else NONE for key in keys)
                ] for group in shown]))
        section.blocks += [_draw_fields(shown, found), _draw_square_shares(shown, found)]
    section.blocks += list_missing('erf', 'Effective receptive fields', found, groups)
    return section


def _draw_fields(groups: Sequence[RunGroup], found: AnalysisResults) -> PictureRow:
    """Draw the map of the first run of each group, all on one colour scale."""
    first = {group.number: next(run for run in group.runs if run.name in found.maps) for group in groups}
    shares = {number: found.maps[run.name] / found.maps[run.name].sum() for number, run in first.items()}
    top = max(share.max() for share in shares.values())
    low = max(min(np.percentile(share, 1) for share in shares.values()), top / 10**DECADES)
    norm, colors = LogNorm(low, top, clip=True), colormaps[ERF_COLORS]
    pictures = []
    for group in groups:
        pixels = (colors(norm(np.maximum(shares[group.number], low)))[..., :3] * 255).astype(np.uint8)
        pictures.append(
            Picture(make_data_uri(pixels, colors=256), f'effective receptive field of {group.label}: bright where pixels count',
                    label_run(group, first[group.number]), True, group.number))
    return PictureRow(
        'Maps on one logarithmic colour scale, the middle of the feature map in the middle: pale yellow is the '
        f'largest share that a pixel has in any of them, black 1/{top / low:,.0f} of it or less.', pictures)


def _draw_square_shares(groups: Sequence[RunGroup], found: AnalysisResults) -> ChartRow:
    """Draw the share inside a centred square against its side."""
    points = {
        group.number: [compute_square_shares(found.maps[run.name]) for run in group.runs if run.name in found.maps]
        for group in groups
    }
    half = {number: [float(np.interp(0.5, shares, sides)) for sides, shares in curves] for number, curves in points.items()}
    alt = 'Share inside a centred square against its side; side of the square that holds half: ' + '; '.join(
        f'{group.label} {format_mean_and_spread(half[group.number], 0)} pixels' for group in groups) + '.'
    return ChartRow([
        Chart(draw_curves_chart('erf-contained', points, 'side of the square, pixels', 'share inside', alt),
              'How fast centred squares fill; lower is wider.', make_series_keys(groups))
    ])


# ---- similarity of blocks ----


def build_similarity(groups: Sequence[RunGroup], found: AnalysisResults) -> ReportSection:
    """Build the section about how similar the features of the blocks are."""
    section, results = ReportSection('cka', 'Similarity of blocks'), collect_results('cka', found, groups)
    shown = [group for group in groups if group.number in results]
    if shown:
        every = [result for values in results.values() for result in values]
        first = every[0]
        section.blocks.append(
            Paragraph(
                'Linear CKA (Kornblith et al., 2019) between the outputs of all blocks: 1 for features that are the same up to '
                f'rotation and scale, about 0 for independent ones. {first["images"]} images of {first["size"]}x{first["size"]} '
                f'pixels, batches of {first["batch_size"]}.'
                + warn_of_conditions(every, ('size', 'images', 'batch_size', 'pool', 'seed'))))
        stages = sorted({stage for result in every for stage in result['model']['mean_off_diagonal_by_stage']}, key=int)
        section.blocks.append(
            ReportTable(
                'Mean similarity of two different blocks; lower is more varied.' + describe_seeds(results),
                ['setting', 'all blocks', *(f'within stage {stage}' for stage in stages)], [[
                    TableField(group.label, number=group.number),
                    format_mean([result['model']['mean_off_diagonal'] for result in results[group.number]]),
                    *(format_mean([result['model']['mean_off_diagonal_by_stage'].get(stage) for result in results[group.number]])
                      for stage in stages)
                ] for group in shown]))
        section.blocks.append(ChartRow(_draw_matrices(shown, found, results)))
    section.blocks += list_missing('cka', 'Similarity of blocks', found, groups)
    return section


def _draw_matrices(groups: Sequence[RunGroup], found: AnalysisResults, results: dict[int, list]) -> list[Chart]:
    """Draw the matrix of the first run of each group, and their colour scale."""
    charts = []
    for group in groups:
        model = results[group.number][0]['model']
        mean = format_mean([model['mean_off_diagonal']])
        run = next(run for run in group.runs if run.name in found.results['cka'])
        charts.append(
            Chart(
                draw_matrix_chart(f'cka-{group.number}', to_array(model['matrix']), model['labels'], model['labels'],
                                  Normalize(0, 1), CKA_COLORS, 'block', 'block',
                                  f'Matrix of the similarity of the blocks of {group.label}; mean off the diagonal {mean}.',
                                  square=True), f'{label_run(group, run)}: mean off the diagonal {mean}.',
                make_series_keys([group])))
    charts.append(
        Chart(draw_color_bar('cka-scale', Normalize(0, 1), CKA_COLORS, 'CKA'),
              'Colours of the matrices; blocks are named stage.number.'))
    return charts
