"""Work dirs as training and testing leave them, and the page of a report as its tests read it."""
import copy
import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope

from helpers.analysed import SWIN
from helpers.tasks import backbone_config, config
from mmparax.report.analyses import find_analyses
from mmparax.report.page import make_report
from mmparax.report.runs import FULL, gather_runs

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


def make_entries(count, first=1, loss=3., **entries):
    """Make the entries of a training log, one for each ten iterations."""
    return [
        dict(lr=0.1, loss=loss / place, time=0.5, iter=10 * place, step=10 * place, **entries)
        for place in range(first, first + count)
    ]


def write_log(folder, session, entries, log=LOG):
    """Write what mmengine logs in a session; return the folder of the entries."""
    place = folder / session / 'vis_data'
    place.mkdir(parents=True, exist_ok=True)
    (place / 'scalars.json').write_text('\n'.join(map(json.dumps, entries)) + '\n')
    (folder / session / f'{session}.log').write_text(log)
    return place


def make_run(folder, scenes, method='AdaRoute', seed=0, miou=20., task='segmentation', entries=None, **changes):
    """Make a work dir as tools/train.py and tools/test.py leave it, without a checkpoint."""
    backbone = {**SWIN, 'adapter': METHODS[method]} if task == 'segmentation' else backbone_config(task, 'swin')
    cfg = copy.deepcopy(build_config(task, str(scenes), json.dumps(backbone)))
    cfg.update(randomness=dict(seed=seed), work_dir=str(folder), train_cfg=dict(type='IterBasedTrainLoop', max_iters=40))
    cfg.merge_from_dict(changes)
    cfg.dump(write_log(folder, FIRST, make_entries(4) if entries is None else entries) / 'config.py')
    cfg.dump(folder / 'some-config.py')
    if miou is not None:
        (folder / TEST).mkdir()
        (folder / TEST / f'{TEST}.json').write_text(json.dumps(dict(mIoU=miou, aAcc=50., time=0.1, data_time=0.1)))
    return folder


CONFIGS = {}


def build_config(task, scenes, backbone):
    """Build the config of a task once for all tests: to fit its heads, the backbone must run."""
    key = task, scenes, backbone
    if key not in CONFIGS:
        CONFIGS[key] = config(task, scenes, 'none', json.loads(backbone))
    return CONFIGS[key]


def add_checkpoint(folder):
    """Write untrained weights of the run's config."""
    run, = gather_runs([str(folder)])
    init_default_scope(run.cfg.default_scope)
    torch.manual_seed(1)
    torch.save(dict(state_dict=MODELS.build(ConfigDict(run.cfg.model)).state_dict(), meta={}), folder / 'iter_40.pth')
    (folder / 'last_checkpoint').write_text('/moved/since/iter_40.pth')


def make_page(*folders, arguments=('WORK_DIR', ), **options):
    """Make the page without its charts, which take most of the time."""
    runs = gather_runs([str(folder) for folder in folders])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmparax.report.charts.render_svg', lambda figure, name, alt: alt)
        return make_report(runs, find_analyses(runs), arguments, **{'num_images': 0, **options})


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


def list_rows(page):
    """List the fields of all tables of a page, row by row."""
    return [[field.strip() for field in row] for row in page.rows]
