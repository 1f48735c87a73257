"""The section about predictions: the same images as each run sees them."""
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmparax.report.content import (
    ColorLegend,
    MissingPart,
    NoteList,
    Picture,
    PictureGrid,
    ReportSection,
    TableField,
)
from mmparax.report.groups import RunGroup, label_run, shorten_paths
from mmparax.report.runs import TrainingRun
from mmparax.report.samples import Gallery, GallerySample
from mmparax.report.svg import make_data_uri

MAP_COLORS = 256
CRISP = 200  # pixels of a picture's longer side below which its pixels stay squares


def build_predictions(groups: Sequence[RunGroup], galleries: Sequence[Gallery]) -> ReportSection:
    """Build the section with the predictions of each run for the same images."""
    section = ReportSection('predictions', 'Predictions')
    runs = {run.name: (group, run) for group in groups for run in group.runs}
    for gallery in galleries:
        if gallery.predictions:
            section.blocks.append(_make_grid(gallery, runs))
        if gallery.classes:
            section.blocks.append(
                ColorLegend('Colours of the classes that occur in these pictures; black is none of them.',
                            [(name, '#{:02x}{:02x}{:02x}'.format(*color)) for name, color in gallery.classes.items()]))
        notes = [shorten_paths(f'{name}: no pictures, {reason}') for name, reason in gallery.notes.items()]
        if notes:
            section.blocks.append(NoteList([note if note.endswith('.') else f'{note}.' for note in notes]))
    if not section.blocks:
        section.blocks.append(
            MissingPart('No predictions were asked for; this command draws those of four images:',
                        'python tools/analysis_tools/report.py WORK_DIR ... --num-images 4'))
    return section


def _make_grid(gallery: Gallery, runs: dict[str, tuple[RunGroup, TrainingRun]]) -> PictureGrid:
    crisp = any(max(sample.picture.shape[:2]) < CRISP for sample in gallery.images)
    rows: list[list[Any]] = [[
        'image', *(_make_field(sample, f'test image {name}', crisp) for name, sample in zip(gallery.names, gallery.images))
    ]]
    if gallery.truths:
        rows.append(
            ['truth', *(_make_field(sample, f'truth for {name}', crisp) for name, sample in zip(gallery.names, gallery.truths))])
    for name, samples in gallery.predictions.items():
        group, run = runs[name]
        label = label_run(group, run)
        rows.append([
            TableField(label, number=group.number),
            *(_make_field(sample, f'prediction of {label} for {image}', crisp) for image, sample in zip(gallery.names, samples))
        ])
    return PictureGrid('The same test images, spread over the data set, as each run sees them.', ['', *gallery.names], rows)


def _make_field(sample: GallerySample, alt: str, crisp: bool) -> Any:
    """Make a picture, or a text if the sample has no picture."""
    if sample.picture is None:
        return sample.text
    is_map = len(np.unique(sample.picture.reshape(-1, 3), axis=0)) <= MAP_COLORS
    return Picture(make_data_uri(sample.picture, colors=MAP_COLORS if is_map else 0), alt, sample.text, crisp)
