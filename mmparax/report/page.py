"""Puts the report together."""
import re
from datetime import date
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mmparax.report.analyses import Found
from mmparax.report.analysis_sections import benchmark_blocks, receptive_fields, routing, similarities
from mmparax.report.content import NONE, Cell, Grid, Legend, Missing, Notes, Picture, Section
from mmparax.report.figures import DASHES
from mmparax.report.gather import Run
from mmparax.report.groups import Group, group, run_label, without_places
from mmparax.report.samples import Gallery, Sample, sample_predictions
from mmparax.report.sections import count_groups, curves, log_speed, overview, parameters, provenance, settings
from mmparax.report.svg import data_uri
from mmparax.version import __version__

TEMPLATE = 'report.html'
MAP_COLORS = 256
LONG_WORD = 14  # characters


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The report as HTML; whatever comes from files is escaped."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                              keep_trailing_newline=True)
    environment.filters.update(breakable=breakable, numeric=numeric)
    return environment.get_template(TEMPLATE).render(
        title=title, subtitle=subtitle, sections=sections, version=__version__, dashes=[
            '' if dash == '-' else ' '.join(f'{3 * length:g}' for length in dash[1]) for dash in DASHES])


def breakable(text: str) -> Markup:
    """A text whose long words may be broken behind dots, hyphens, slashes and underscores."""
    return Markup('').join(
        Markup('').join(part + Markup('<wbr>') if part in '._/-' else escape(part) for part in re.split('([._/-])', word))
        if len(word) > LONG_WORD else escape(word) for word in re.split('( )', text))


def numeric(text: str) -> bool:
    """Whether a field of a table is set to the right."""
    return not text or text == NONE or text[0] in '0123456789+-'


def predictions(groups: Sequence[Group], galleries: Sequence[Gallery]) -> Section:
    """The same images as each run sees them."""
    section = Section('predictions', 'Predictions')
    found = {run.name: (group, run) for group in groups for run in group.runs}
    for gallery in galleries:
        if gallery.predictions:
            section.blocks.append(_grid(gallery, found))
        if gallery.classes:
            section.blocks.append(Legend('Colours of the classes that occur in these pictures; black is none of them.', [
                (name, '#{:02x}{:02x}{:02x}'.format(*color)) for name, color in gallery.classes.items()]))
        notes = [without_places(f'{name}: no pictures, {reason}') for name, reason in gallery.notes.items()]
        if notes:
            section.blocks.append(Notes([note if note.endswith('.') else f'{note}.' for note in notes]))
    if not section.blocks:
        section.blocks.append(Missing('No predictions were asked for; this draws those of four images:',
                                      'python tools/analysis_tools/report.py WORK_DIR ... --images 4'))
    return section


def _grid(gallery: Gallery, found: Dict[str, Any]) -> Grid:
    crisp = any(max(sample.picture.shape[:2]) < 200 for sample in gallery.images)
    rows: List[List[Any]] = [['image', *(_cell(sample, f'test image {name}', crisp)
                                         for name, sample in zip(gallery.names, gallery.images))]]
    if gallery.truths:
        rows.append(['truth', *(_cell(sample, f'truth for {name}', crisp)
                                for name, sample in zip(gallery.names, gallery.truths))])
    for name, samples in gallery.predictions.items():
        group, run = found[name]
        label = run_label(group, run)
        rows.append([Cell(label, number=group.number), *(_cell(sample, f'prediction of {label} for {image}', crisp)
                                                         for image, sample in zip(gallery.names, samples))])
    return Grid('The same test images, spread over the data set, as each run sees them.', ['', *gallery.names], rows)


def _cell(sample: Sample, alt: str, crisp: bool) -> Any:
    if sample.picture is None:
        return sample.text
    few = len(np.unique(sample.picture.reshape(-1, 3), axis=0)) <= MAP_COLORS
    return Picture(data_uri(sample.picture, colors=MAP_COLORS if few else 0), alt, sample.text, crisp)


def make_report(runs: Sequence[Run], found: Found, arguments: Sequence[str], images: int = 4, benchmarks: Sequence[Path] = (),
                title: Optional[str] = None) -> str:
    """The report on some runs as HTML.

    Args:
        runs: from :func:`mmparax.report.gather.gather`.
        found: what is known from their analyses.
        arguments: of the command, for the record.
        images: how many test images each run predicts.
        benchmarks: JSON files of tools/analysis_tools/benchmark.py.
        title: heading; by default the methods.
    """
    groups = group(runs)
    counts = count_groups(groups)
    galleries = sample_predictions([run for entry in groups for run in entry.runs], images) if images else []
    sections = [
        overview(groups, counts), curves(groups), parameters(groups, counts),
        Section('speed', 'Speed', [*log_speed(groups), *benchmark_blocks(benchmarks)]),
        receptive_fields(groups, found), similarities(groups, found), routing(groups, found), predictions(groups, galleries),
        settings(groups), provenance(groups, arguments)]
    labels = [entry.label for entry in groups]
    title = title or (', '.join(labels) if len(labels) < 5 else f'{len(labels)} settings compared')
    subtitle = f'{len(runs)} run{"s" * (len(runs) > 1)}, reported {date.today().isoformat()}'
    return render(title, subtitle, sections)
