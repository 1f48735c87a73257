"""The report: what it finds in work dirs, how it groups runs, and that the page needs nothing else and can be read."""
import copy
import json
import os
import re
import runpy
import sys
import tempfile
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope

from helpers.analysed import SWIN
from helpers.tasks import TASKS, backbone_config, config
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.errors import InputError, MissingFileError
from mmparax.report.analyses import find_analyses
from mmparax.report.analysis_sections import format_command
from mmparax.report.runs import FULL, gather_runs
from mmparax.report.groups import best, differences, group, shorten_paths
from mmparax.report.logs import read_curves
from mmparax.report.page import add_breaks, make_report
from mmparax.report.samples import sample_predictions

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'report.py'
LOG = """System environment:
    sys.platform: linux
    CUDA available: True
    GPU 0,1: NVIDIA L40S
    PyTorch: 2.11.0
    MMEngine: 0.10.12

Runtime environment:
    seed: 5
    Distributed launcher: none
    GPU number: 2
------------------------------------------------------------
"""
FIRST, SECOND, TEST = '20260101_000000', '20260102_000000', '20260103_000000'
METHODS = {'AdaRoute': dict(type='mmparax.AdaRoute', hidden_dim=4), 'Frozen': dict(type='mmparax.Frozen'), FULL: None}
VOID = {'meta', 'img', 'br', 'wbr', 'line', 'rect', 'path', 'use', 'image', 'circle'}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'scenes'
    write_scenes(path, 2, 5, size=(96, 96), progress=False)
    return path


def steps(count, first=1, loss=3., **entries):
    """Entries of a training log, one for each ten iterations."""
    return [dict(lr=0.1, loss=loss / place, time=0.5, iter=10 * place, step=10 * place, **entries)
            for place in range(first, first + count)]


def write_log(folder, session, entries, log=LOG):
    place = folder / session / 'vis_data'
    place.mkdir(parents=True, exist_ok=True)
    (place / 'scalars.json').write_text('\n'.join(map(json.dumps, entries)) + '\n')
    (folder / session / f'{session}.log').write_text(log)
    return place


def make_run(folder, scenes, method='AdaRoute', seed=0, miou=20., task='segmentation', entries=None, **changes):
    """A work dir as tools/train.py and tools/test.py leave it, without a checkpoint."""
    backbone = {**SWIN, 'adapter': METHODS[method]} if task == 'segmentation' else backbone_config(task, 'swin')
    cfg = copy.deepcopy(model_config(task, str(scenes), json.dumps(backbone)))
    cfg.update(randomness=dict(seed=seed), work_dir=str(folder), train_cfg=dict(type='IterBasedTrainLoop', max_iters=40))
    cfg.merge_from_dict(changes)
    cfg.dump(write_log(folder, FIRST, steps(4) if entries is None else entries) / 'config.py')
    cfg.dump(folder / 'some-config.py')
    if miou is not None:
        (folder / TEST).mkdir()
        (folder / TEST / f'{TEST}.json').write_text(json.dumps(dict(mIoU=miou, aAcc=50., time=0.1, data_time=0.1)))
    return folder


CONFIGS = {}


def model_config(task, scenes, backbone):
    """Heads are made to fit a backbone by running it: once for all tests."""
    key = task, scenes, backbone
    if key not in CONFIGS:
        CONFIGS[key] = config(task, scenes, 'none', json.loads(backbone))
    return CONFIGS[key]


def add_checkpoint(folder):
    """Untrained weights of the run's config."""
    run, = gather_runs([str(folder)])
    init_default_scope(run.cfg.default_scope)
    torch.manual_seed(1)
    torch.save(dict(state_dict=MODELS.build(ConfigDict(run.cfg.model)).state_dict(), meta={}), folder / 'iter_40.pth')
    (folder / 'last_checkpoint').write_text('/moved/since/iter_40.pth')


def page_of(*folders, arguments=('WORK_DIR', ), **options):
    """The page without its charts, which take most of the time."""
    runs = gather_runs([str(folder) for folder in folders])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmparax.report.charts.render_svg', lambda figure, name, alt: alt)
        return make_report(runs, find_analyses(runs), arguments, **{'images': 0, **options})


# ---- logs ----


def test_resumed_parts_are_one_curve(tmp_path):
    """The second part began at the checkpoint of iteration 20; what the first one did after it does not count."""
    files = [write_log(tmp_path, FIRST, [*steps(2), dict(mIoU=10., time=1., step=20), *steps(2, 3, loss=9.)]) / 'scalars.json',
             write_log(tmp_path, SECOND, [*steps(2, 3), dict(mIoU=12., time=1., step=40)]) / 'scalars.json']
    curves = read_curves(files)
    assert curves.series('loss') == ([10, 20, 30, 40], [3., 1.5, 1., 0.75])
    assert curves.metrics() == {'mIoU': ([20, 40], [10., 12.])} and not curves.notes
    restarted = read_curves([files[0], write_log(tmp_path, TEST, steps(2, loss=8.)) / 'scalars.json'])
    assert restarted.series('loss') == ([10, 20], [8., 4.]) and restarted.val == []


def test_validations_of_epochs_are_counted_in_epochs(tmp_path):
    entries = [*steps(2, epoch=1), {'coco/bbox_mAP': 0.1, 'time': 1., 'step': 1}, *steps(2, 3, epoch=2),
               {'coco/bbox_mAP': 0.2, 'time': 1., 'step': 2}]
    curves = read_curves([write_log(tmp_path, FIRST, entries) / 'scalars.json'])
    assert curves.by_epoch and curves.metrics() == {'AP^b': ([1, 2], [10., 20.])}
    resumed = write_log(tmp_path, SECOND, steps(2, 3, epoch=2)) / 'scalars.json'
    assert read_curves([tmp_path / FIRST / 'vis_data' / 'scalars.json', resumed]).metrics() == {'AP^b': ([1], [10.])}


@pytest.mark.parametrize('damage, note', {
    'half a line': (lambda text: text[:-40], 'The last line of .*scalars.json is half-written'),
    'a broken line': (lambda text: text.replace('{', 'x', 1), '1 of 5 lines .* cannot be read, the first is line 1'),
    'nan': (lambda text: text.replace('0.75', 'NaN'), 'The loss is not finite at 1 of 4 logged steps'),
}.values(), ids=('half a line', 'a broken line', 'nan'))
def test_damaged_logs_are_read_as_far_as_they_go(tmp_path, damage, note):
    path = write_log(tmp_path, FIRST, steps(4)) / 'scalars.json'
    path.write_text(damage(path.read_text()))
    curves = read_curves([path])
    assert len(curves.series('loss')[0]) == 3
    assert re.match(note, curves.notes[0]) and str(tmp_path) not in curves.notes[0]


# ---- work dirs ----


def test_a_run_and_what_is_known_of_it(tmp_path, scenes):
    run, = gather_runs([str(make_run(tmp_path / 'mine', scenes, seed=3))])
    assert (run.name, run.method, run.seed, run.started) == ('mine', 'AdaRoute', 3, '2026-01-01')
    assert run.backbone == 'Swin (width 8, depth 2-2-4-2)' and run.device == '2 × NVIDIA L40S'
    assert run.metrics == {'mIoU': 20.} and run.source == 'test' and run.seconds_per_iteration == 0.5
    assert run.progress() == dict(unit='iteration', done=40, total=40)
    assert run.notes == ['Its checkpoint is not there, so neither are pictures and analyses that need it.']


def test_a_run_of_reproduce_is_found_by_its_folder_and_by_its_training(tmp_path, scenes):
    outer = tmp_path / 'cell' / 'seed0'
    make_run(outer / 'train', scenes, miou=None)
    (outer / 'result.json').write_text(json.dumps(dict(metrics=dict(mIoU=17.4), version='9.9')))
    for given in ([outer], [outer / 'train'], [outer, outer / 'train']):
        run, = gather_runs(list(map(str, given)))
        assert (run.name, run.outer, run.metrics) == ('cell/seed0', outer, {'mIoU': 17.4})
    assert '9.9' in page_of(outer)


@pytest.mark.parametrize('given, metrics, source', [
    (dict(miou=21.), {'mIoU': 21.}, 'test'),
    (dict(miou=None, printed='Iter(test) [25/25]    aAcc: 66.1500  mIoU: 22.7900  time: 0.3'), {'mIoU': 22.79}, 'test'),
    (dict(miou=None, printed='Iter(test) [10/25]    eta: 0:00:07  time: 0.5'), {'mIoU': 11.}, 'last validation'),
    (dict(miou=None, entries=steps(4)), {}, ''),
], ids=['written', 'printed', 'validation', 'none'])
def test_the_evaluation_of_the_test_set_goes_before_the_last_validation(tmp_path, scenes, given, metrics, source):
    printed = given.pop('printed', '')
    validated = [*steps(4), dict(mIoU=10., time=1., step=20), dict(mIoU=11., time=1., step=40)]
    folder = make_run(tmp_path / 'run', scenes, **{'entries': validated, **given})
    (folder / 'test.txt').write_text(f'11/22 00:22:07 - mmengine - INFO - {printed}\n')
    run, = gather_runs([str(folder)])
    assert (run.metrics, run.source) == (metrics, source)


def test_an_unfinished_run_says_so(tmp_path, scenes):
    run, = gather_runs([str(make_run(tmp_path / 'run', scenes, entries=steps(2)))])
    assert 'It is not finished: iteration 20 of 40.' in run.notes


BAD = {
    'missing': (lambda path: None, MissingFileError, "'.*here' does not exist. Give work dirs"),
    'file': (lambda path: path.write_text(''), InputError, "'.*here' is a file, not a folder"),
    'empty': (lambda path: path.mkdir(), InputError, "the folder '.*here' is empty"),
    'other': (lambda path: (path / 'x').mkdir(parents=True), InputError, "'.*here' holds no run"),
    'config alone': (lambda path: (path.mkdir(), (path / 'a.py').write_text('')), InputError, "'.*here' holds no run"),
}


@pytest.mark.parametrize('case', BAD)
def test_a_folder_without_a_run_is_one_sentence(tmp_path, case):
    make, error, message = BAD[case]
    make(tmp_path / 'here')
    with pytest.raises(error, match=message):
        gather_runs([str(tmp_path / 'here')])


def test_a_folder_of_runs_names_them(tmp_path, scenes):
    make_run(tmp_path / 'a', scenes)
    with pytest.raises(InputError, match=r'is no run, but runs are in it, 1 \(a\)'):
        gather_runs([str(tmp_path)])


# ---- groups ----


@pytest.fixture(scope='module')
def three(tmp_path_factory, scenes):
    """Two seeds of AdaRoute, one run of the frozen base and one of full fine-tuning."""
    root = tmp_path_factory.mktemp('three')
    return [make_run(root / 'a0', scenes, seed=0, miou=20.), make_run(root / 'f0', scenes, 'Frozen', miou=19.),
            make_run(root / 'a1', scenes, seed=1, miou=22., entries=steps(4, loss=5.)),
            make_run(root / 'full', scenes, FULL, miou=15.)]


def grouped(folders):
    return group(gather_runs(list(map(str, folders))))


def test_runs_that_differ_in_the_seed_are_one_group(three):
    groups = grouped(three)
    assert [(found.label, [run.name for run in found.runs]) for found in groups] == [
        ('AdaRoute', ['a0', 'a1']), ('Frozen', ['f0']), (FULL, ['full'])]
    assert groups[0].metrics == {'mIoU': [20., 22.]} and best(groups, 'mIoU') is groups[0]
    assert differences(groups) == {
        'model.backbone.adapter.hidden_dim': ['4', 'not set', 'not set'],
        'model.backbone.adapter.type': ['mmparax.AdaRoute', 'mmparax.Frozen', 'not set'],
        'model.backbone.adapter': ['not set', 'not set', 'None']}


def test_groups_of_one_method_are_told_apart(tmp_path, scenes):
    changes = {'model.backbone.adapter.hidden_dim': 8}, {'model.backbone.arch.embed_dims': 16}, {}
    groups = grouped([make_run(tmp_path / name, scenes, **change) for name, change in zip('abc', changes)])
    assert len({found.label for found in groups}) == 3
    assert [found.label for found in groups][1] == 'AdaRoute, Swin (width 16, depth 2-2-4-2)'


def test_the_best_is_marked_only_among_what_was_evaluated_alike(tmp_path, scenes, three):
    other = make_run(tmp_path / 'other', scenes, 'Frozen', miou=90.,
                     **{'test_dataloader.dataset.data_prefix.img_path': 'images/training'})
    assert best(grouped([three[0], other]), 'mIoU') is None
    page = page_of(three[0], other)
    assert '★' not in page and 'No best value is marked' in page
    assert '★' in page_of(*three)


def test_runs_of_two_tasks_have_columns_of_their_own(tmp_path, scenes, three):
    detector = make_run(tmp_path / 'detector', scenes, miou=None, **{'test_evaluator.type': 'CocoMetric'})
    (detector / TEST).mkdir()
    (detector / TEST / f'{TEST}.json').write_text(json.dumps({'coco/bbox_mAP': 0.087, 'coco/segm_mAP': 0.08}))
    header, first, second = rows_of(Page(page_of(three[0], detector)))[:3]
    place = header.index('mIoU')
    assert [row[place:place + 3] for row in (header, first, second)] == [
        ['mIoU', 'AP^b', 'AP^m'], ['20.0', '–', '–'], ['–', '8.7', '8.0']]


@pytest.mark.parametrize('text, shown', [
    ("the file '/home/me/data/x.png' is missing", "the file '…/x.png' is missing"),
    ('(/a/b: no)', '(…/b: no)'),
    ('mmparax://x/y.safetensors and work_dirs/a/b', 'mmparax://x/y.safetensors and work_dirs/a/b')])
def test_sentences_name_no_folders_of_the_machine(text, shown):
    assert shorten_paths(text) == shown


# ---- the page ----


class Page(HTMLParser):
    """What the checks need of a page; wrong nesting is an error."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.links, self.pictures, self.headings, self.urls, self.tags = [], [], [], [], [], [], Counter()
        self.attributes, self.words, self.rows, self.figures = {}, [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert len(found) == len(attributes), (tag, attributes)
        self.tags[tag] += 1
        self.attributes.setdefault(tag, []).append(found)
        self.ids += [found['id']] if 'id' in found else []
        for name in ('src', 'href', 'action', 'data', 'poster', 'srcset', 'background'):
            if name in found:
                (self.links if found[name].startswith('#') else self.urls).append(found[name])
        self.urls += re.findall(r'url\(([^)]*)\)', found.get('style', ''))
        if tag == 'img' or found.get('role') == 'img':
            self.pictures.append(found.get('alt', found.get('aria-label')))
        if re.fullmatch('h[1-6]', tag):
            self.headings.append(int(tag[1]))
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')
        if tag == 'figure':
            self.figures.append(False)
        if tag == 'figcaption':
            self.figures[-1] = True
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f'</{tag}> at line {self.getpos()[0]}'

    def handle_data(self, data):
        if 'style' not in self.open:
            self.words.append(data)
            if self.rows and {'td', 'th'} & set(self.open):
                self.rows[-1][-1] += data


def rows_of(page):
    return [[field.strip() for field in row] for row in page.rows]


@pytest.fixture(scope='module')
def whole(three, scenes, tmp_path_factory):
    """The page of all runs with every section filled, and how it was made."""
    root = tmp_path_factory.mktemp('whole')
    folders = [make_run(root / 'routed', scenes), make_run(root / 'plain', scenes, FULL), three[1]]
    for folder in folders[:2]:
        add_checkpoint(folder)
    benchmark = root / 'benchmark.json'
    row = dict(method='<b>adaroute</b>', efficient_attention=True, ops='auto', dtype='fp32', images_per_second=2., error=None, rounds=3,
               ratio_to_full=0.8, published_ratio_to_full=None, peak_memory_bytes=2e9, memory_ratio_to_full=0.5,
               inference_images_per_second=None)
    benchmark.write_text(json.dumps(dict(environment=dict(device='CPU', threads=2, torch='2'), comparisons=[dict(
        backbone='swin-b', size=[32, 48], batch=1, stopped=None, rows=[row])])))
    out = root / 'new' / 'folder' / 'report.html'
    with pytest.MonkeyPatch.context() as patch:
        for module in ('erf', 'cka'):  # their own pictures
            patch.setattr(f'mmparax.analysis.{module}.write_figure', lambda path, figure: None)
        options = '--analyse', '--analysis-images', 4, '--images', 2, '--benchmark', benchmark
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
    assert ['<b>adaroute</b>', 'on', 'auto', 'fp32', '2', '0.800', '2.000', '0.500'] in rows_of(page)
    rows = {row[0]: row for row in rows_of(page) if len(row) == 3}
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
    for name in ('measure_erf', 'measure_cka', 'look'):
        monkeypatch.setattr(f'mmparax.report.analyses.{name}', lambda *args, **options: pytest.fail('made again'))
    whole['out'].write_text('the report before')
    assert call(*whole['folders'], '--out', whole['out'], '--analyse', '--images', 0) is None
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


def test_what_is_missing_names_the_command_that_makes_it(three, tmp_path, monkeypatch):
    page = ' '.join(Page(page_of(three[0])).words)
    for tool in ('erf.py', 'cka.py', 'routing.py', 'benchmark.py'):
        assert f'python tools/analysis_tools/{tool}' in page
    assert 'No validation was logged' in page and 'No predictions were asked for' in page
    monkeypatch.chdir(three[0].parent)
    run, = gather_runs([three[0].name])
    assert format_command('erf', run) == 'python tools/analysis_tools/erf.py a0/some-config.py CHECKPOINT --out a0/analysis/erf'
    assert 'is about AdaRoute' in page_of(three[1])


def test_a_damaged_analysis_is_a_note(tmp_path, scenes):
    folder = make_run(tmp_path / 'run', scenes)
    for kind, content in (('erf', '{"models": []}'), ('cka', '{'), ('routing', '[]')):
        (folder / 'analysis' / kind).mkdir(parents=True)
        (folder / 'analysis' / kind / f'{kind}.json').write_text(content)
    found = find_analyses(gather_runs([str(folder)]))
    assert not any(found.results.values()) and all('cannot be read' in text for text, in found.notes.values())
    assert 'cannot be read' in page_of(folder)


HOSTILE = '<script>alert(1)</script>'


def test_names_from_files_are_text(tmp_path, scenes):
    folder = make_run(tmp_path / HOSTILE.replace('/', '∕'), scenes, **{'model.backbone.arch.num_heads': [1, 2, 4, 8]})
    other = make_run(tmp_path / '"><img src=x onerror=alert(1)>', scenes, miou=None, entries=[
        *steps(2), {f'{HOSTILE}': 1., 'time': 1., 'step': 20}], **{'train_dataloader.dataset.serialize_data': HOSTILE})
    page = Page(page_of(folder, other, title=HOSTILE, arguments=(HOSTILE, )))
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
    block = re.findall(r':root \{([^}]*--page[^}]*)\}', page_of(three[1]))[scheme]
    colors = dict(re.findall(r'--([\w-]+): (#\w{6})', block))
    assert len([name for name in colors if name.startswith('series')]) == 8
    for name, color in colors.items():
        least = 4.5 if name in ('ink', 'soft', 'link', 'best') else 3. if name.startswith('series') else 0.
        for ground in ('page', 'head'):
            assert contrast(color, colors[ground]) >= least or name == ground, (name, ground)


# ---- predictions ----


@pytest.mark.parametrize('task', [
    pytest.param(task, marks=[pytest.mark.full] if task != 'segmentation' else []) for task in TASKS])
def test_predictions_of_every_task(task, tmp_path, scenes):
    folder = make_run(tmp_path / 'run', scenes, task=task)
    add_checkpoint(folder)
    run, = gather_runs([str(folder)])
    gallery, = sample_predictions([run], 2)
    assert gallery.notes == {} and len(gallery.names) == len(gallery.truths) == len(gallery.predictions['run']) == 2
    for sample in [*gallery.truths, *gallery.predictions['run']]:
        assert sample.text if task == 'classification' else sample.picture.shape[0] in (96, 288)
    assert bool(gallery.classes) == (task in ('segmentation', 'panoptic'))
    assert 'prediction of AdaRoute' in page_of(folder, images=1) or task == 'classification'


def test_why_there_are_no_predictions(tmp_path, scenes, three):
    lost = make_run(tmp_path / 'lost', tmp_path / 'absent', 'Frozen')
    (lost / 'iter_40.pth').write_bytes(b'broken')
    notes = {name: text for gallery in sample_predictions(gather_runs([str(three[0]), str(lost)]), 1)
             for name, text in gallery.notes.items()}
    assert [re.sub(r'\(.*', '', text) for text in notes.values()] == ['its checkpoint is not there', 'its data are not there ']


# ---- the tool ----


@pytest.mark.parametrize('arguments, message', [
    (['absent'], "MissingFileError: the folder 'absent' does not exist"),
    (['.', '--out', 'report.txt'], "--out='report.txt' is not allowed"),
    (['.', '--images', '-1'], '--images=-1 is not allowed'),
    (['.', '--benchmark', 'none.json'], "--benchmark='none.json' does not exist"),
    (['.', '--analyse', '--analysis-images', '2'], '--analysis-images=2 is not allowed'),
    (['.'], "InputError: the folder '.' is empty")], ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
def test_wrong_arguments_are_one_sentence(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MMPARAX_TRACEBACK', raising=False)
    assert message in call(*arguments) and list(tmp_path.iterdir()) == []
