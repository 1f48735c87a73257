"""The page: it needs nothing else, can be read without seeing it, and tells nothing of the machine."""
import json
import os
import re
import runpy
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from helpers.reported import Page, add_checkpoint, list_rows, make_entries, make_page, make_run
from mmparax.report.analyses import find_analyses
from mmparax.report.page import add_breaks
from mmparax.report.runs import FULL, gather_runs

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'report.py'


@pytest.fixture(scope='module')
def whole(three, scenes, tmp_path_factory):
    """The page of all runs with every section filled, and how it was made."""
    root = tmp_path_factory.mktemp('whole')
    folders = [make_run(root / 'routed', scenes), make_run(root / 'plain', scenes, FULL), three[1]]
    for folder in folders[:2]:
        add_checkpoint(folder)
    benchmark = root / 'benchmark.json'
    row = dict(method='<b>adaroute</b>', efficient_attention=True, ops='auto', dtype='fp32', images_per_second=2., error=None,
               rounds=3, ratio_to_full=0.8, published_ratio_to_full=None, peak_memory_bytes=2e9, memory_ratio_to_full=0.5,
               inference_images_per_second=None)
    benchmark.write_text(
        json.dumps(
            dict(environment=dict(device='CPU', threads=2, torch='2'),
                 comparisons=[dict(backbone='swin-b', size=[32, 48], batch=1, stopped=None, rows=[row])])))
    out = root / 'new' / 'folder' / 'report.html'
    with pytest.MonkeyPatch.context() as patch:
        for module in ('erf', 'cka'):  # their own pictures
            patch.setattr(f'mmparax.analysis.{module}.write_figure', lambda path, figure: None)
        options = '--analyse', '--num-analysis-images', 4, '--num-images', 2, '--benchmark', benchmark
        assert call(*folders, '--out', out, *options) is None
    return dict(text=out.read_text(), folders=folders, out=out)


def call(*arguments):
    """Run the tool in this process; return what it exits with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['report.py', *map(str, arguments)])
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as stopped:
            return stopped.code


def test_the_page_needs_nothing_else_and_is_well_formed(whole):
    page = Page(whole['text'])
    assert [url[:22] for url in page.urls if not url.startswith(('data:image/png;base64,', '#'))] == []
    assert not page.tags['script'] and not page.tags['link'] and not page.tags['iframe']
    assert '@import' not in whole['text'] and not re.search(r'url\((?!#)', whole['text'])
    assert "default-src 'none'" in page.attributes['meta'][3]['content']  # a browser would refuse what slipped through
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert set(re.findall(r'url\(#([^)]+)\)', whole['text'])) <= set(page.ids)


def test_the_page_can_be_read_without_seeing_it(whole):
    page = Page(whole['text'])
    assert page.attributes['html'] == [dict(lang='en')]
    assert 'viewport' in [found.get('name') for found in page.attributes['meta']]
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in zip(page.headings, page.headings[1:]))
    assert page.tags['img'] and all(page.pictures)
    assert page.figures and all(page.figures)
    assert page.tags['main'] == page.tags['title'] == 1
    drawings = [found for found in page.attributes['svg'] if found.get('role') != 'img']
    assert all(found.get('aria-hidden') == 'true' for found in drawings)


def test_the_page_has_every_part(whole):
    page = Page(whole['text'])
    assert not any('measured: ' in word and 'routed' in word for word in page.words)
    ids = ['overview', 'curves', 'parameters', 'speed', 'erf', 'cka', 'routing', 'predictions', 'settings', 'provenance']
    assert [name for name in page.ids if name in ids] == ids
    for chart in ('curve-loss', 'parameters', 'speed', 'erf-contained', 'cka-0', 'usage-0-0', 'classes-0'):
        assert any(name.startswith(f'{chart}-') for name in page.ids), chart
    assert ['<b>adaroute</b>', 'on', 'auto', 'fp32', '2', '0.800', '2.000', '0.500'] in list_rows(page)
    rows = {row[0]: row for row in list_rows(page) if len(row) == 3}
    assert 'image' in rows and 'truth' in rows and 'AdaRoute' in rows


def test_the_page_tells_nothing_of_the_machine(whole, scenes):
    for secret in (str(scenes), str(whole['out'].parent), tempfile.gettempdir(), str(Path.home()) + '/'):
        assert secret not in whole['text']


def test_one_run_has_one_colour(whole):
    entries = re.findall(r'var\(--series-(\d)\)"[^>]*/></svg>([^<]+)', whole['text'])
    colours = {}
    for number, label in entries:
        colours.setdefault(label.strip(), set()).add(number)
    assert colours['AdaRoute'] == {'0'} and colours[FULL] == {'1'} and colours['Frozen'] == {'2'}
    chart = whole['text'].split('id="curve-loss-figure_1"')[1].split('</svg>')[0]
    assert set(re.findall(r'var\(--series-(\d)\)', chart)) == {'0', '1', '2'}


def test_analyses_that_are_there_are_not_made_again(whole, monkeypatch):
    monkeypatch.setattr('mmparax.report.charts.render_svg', lambda figure, name, alt: alt)
    for name in ('measure_erf', 'measure_cka', 'measure_routing'):
        monkeypatch.setattr(f'mmparax.report.analyses.{name}', lambda *args, **options: pytest.fail('made again'))
    whole['out'].write_text('the report before')
    assert call(*whole['folders'], '--out', whole['out'], '--analyse', '--num-images', 0) is None
    assert whole['out'].read_text().startswith('<!DOCTYPE html>') and len(list(whole['out'].parent.iterdir())) == 1
    folder = whole['folders'][0]
    found = find_analyses(gather_runs([str(folder)]))
    assert all(found.results[kind] for kind in ('erf', 'cka', 'routing')) and not any(found.notes.values())
    times = (folder / 'iter_40.pth').stat()
    os.utime(folder / 'iter_40.pth', (times.st_atime, time.time() + 60))  # trained anew
    try:
        notes = find_analyses(gather_runs([str(folder)])).notes
    finally:
        os.utime(folder / 'iter_40.pth', (times.st_atime, times.st_mtime))
    assert all('this is older than its checkpoint iter_40.pth' in text for text, in notes.values())
    (folder / 'iter_40.pth').rename(folder / 'iter_80.pth')
    try:
        notes = find_analyses(gather_runs([str(folder)])).notes
    finally:
        (folder / 'iter_80.pth').rename(folder / 'iter_40.pth')
    assert all(re.search('this is of iter_40.pth, the last checkpoint is iter_80.pth', text) for text, in notes.values())


HOSTILE = '<script>alert(1)</script>'


def test_names_from_files_are_text(tmp_path, scenes):
    folder = make_run(tmp_path / HOSTILE.replace('/', '∕'), scenes, **{'model.backbone.arch.num_heads': [1, 2, 4, 8]})
    other = make_run(tmp_path / '"><img src=x onerror=alert(1)>', scenes, miou=None,
                     entries=[*make_entries(2), {f'{HOSTILE}': 1., 'time': 1.,
                                                 'step': 20}], **{'train_dataloader.dataset.serialize_data': HOSTILE})
    page = Page(make_page(folder, other, title=HOSTILE, arguments=(HOSTILE, )))
    assert not page.tags['script'] and not page.tags['img']
    words = ''.join(page.words)
    assert words.count(HOSTILE) >= 4 and '"><img src=x onerror=alert(1)>' in words
    assert add_breaks(f'a_{HOSTILE}') == 'a_<wbr>&lt;script&gt;alert(1)&lt;/<wbr>script&gt;'


def contrast(first, second):
    """Of two colours '#rrggbb', by the Web Content Accessibility Guidelines."""
    levels = []
    for color in (first, second):
        part = np.array([int(color[place:place + 2], 16) / 255 for place in (1, 3, 5)])
        levels.append(np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055)**2.4) @ (0.2126, 0.7152, 0.0722) + 0.05)
    return max(levels) / min(levels)


@pytest.mark.parametrize('scheme', [0, 1], ids=['light', 'dark'])
def test_colours_can_be_told_from_the_page(three, scheme):
    block = re.findall(r':root \{([^}]*--page[^}]*)\}', make_page(three[1]))[scheme]
    colors = dict(re.findall(r'--([\w-]+): (#\w{6})', block))
    assert len([name for name in colors if name.startswith('series')]) == 8
    for name, color in colors.items():
        least = 4.5 if name in ('ink', 'soft', 'link', 'best') else 3. if name.startswith('series') else 0.
        for ground in ('page', 'head'):
            assert contrast(color, colors[ground]) >= least or name == ground, (name, ground)


# ---- the tool ----


@pytest.mark.parametrize('arguments, message',
                         [(['absent'], "MissingFileError: the folder 'absent' does not exist"),
                          (['.', '--out', 'report.txt'], "--out='report.txt' is not allowed"),
                          (['.', '--num-images', '-1'], '--num-images=-1 is not allowed'),
                          (['.', '--benchmark', 'none.json'], "MissingFileError: the benchmark 'none.json' does not exist"),
                          (['.', '--analyse', '--num-analysis-images', '2'], '--num-analysis-images=2 is not allowed'),
                          (['.'], "InputError: the folder '.' is empty")], ids=lambda value: ' '.join(value)
                         if isinstance(value, list) else '')
def test_wrong_arguments_are_one_sentence(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MMPARAX_TRACEBACK', raising=False)
    assert message in call(*arguments) and list(tmp_path.iterdir()) == []
