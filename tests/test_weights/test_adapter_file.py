"""Damaged, truncated, swapped and hostile files: each is refused with a sentence, nothing of any is run or loaded."""
import hashlib
import io
import json
import pickle
import random
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from safetensors.torch import load, save
from torch import nn

import mmparax
from helpers.cases import build
from helpers.hostile import TERMINAL, Hostile, through_getattr
from mmparax.errors import UserError
from mmparax.weights.adapter_file import BLANK, KEY, read_adapter, write_adapter

SMALL = dict(arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2]), out_indices=(1, ))


class Model(nn.Module):

    def __init__(self, folder, method='norm-tuning', **options):
        super().__init__()
        self.backbone = build(method, allow_random_base=False, base_checkpoint=str(folder / 'base.pth'), **SMALL, **options)
        self.head = nn.Conv2d(16, 3, 1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A small good file, and another of the same shapes."""
    path = tmp_path_factory.mktemp('fuzz')
    torch.save(build('frozen', **SMALL).state_dict(), path / 'base.pth')
    for name in ('good', 'other'):
        mmparax.save_adapter(Model(path), path / f'{name}.safetensors', metric=dict(mIoU=len(name)),
                             dataset_meta=dict(classes=('ä', 'b', 'c')))
    return path


def refused(path):
    """That the file is refused by whoever reads it as an adapter file."""
    with pytest.raises(UserError) as error:
        read_adapter(path)
    message = str(error.value)
    assert str(path) in message and len(message.splitlines()) == 1, message


def bits_of(content, count, seed):
    """``count`` copies with one bit changed; every third in the header, where few bytes of a real file are."""
    generator, header = random.Random(seed), 8 + int.from_bytes(content[:8], 'little')
    for number in range(count):
        place = generator.randrange(header if number % 3 == 0 else len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << generator.randrange(8)
        yield bytes(changed)


def test_no_changed_bit_goes_unseen(folder, tmp_path):
    content = (folder / 'good.safetensors').read_bytes()
    read_adapter(folder / 'good.safetensors')
    for changed in bits_of(content, 400, seed=0):
        (tmp_path / 'a.safetensors').write_bytes(changed)
        refused(tmp_path / 'a.safetensors')


def test_no_cut_goes_unseen(folder, tmp_path):
    content = (folder / 'good.safetensors').read_bytes()
    generator = random.Random(1)
    lengths = [0, 1, 7, 8, 9, len(content) - 1, *(generator.randrange(len(content)) for _ in range(60))]
    for changed in [content[:length] for length in lengths] + [content + b'\0', b'\0' + content, content[8:], content * 2]:
        (tmp_path / 'a.safetensors').write_bytes(changed)
        refused(tmp_path / 'a.safetensors')


def signed(about):
    """The text of a description with the digest that belongs to it."""
    text = json.dumps({**about, 'sha256': BLANK})
    return text.replace(BLANK, hashlib.sha256(text.encode()).hexdigest(), 1)


def test_metadata_and_tensors_belong_together(folder, tmp_path):
    contents = [(folder / f'{name}.safetensors').read_bytes() for name in ('good', 'other')]
    tensors = [load(content) for content in contents]
    texts = [json.loads(content[8:8 + int.from_bytes(content[:8], 'little')])['__metadata__'] for content in contents]
    about = json.loads(texts[0][KEY])
    cases = [(tensors[0], texts[1]), (tensors[1], texts[0]), (tensors[0], {}), (tensors[0], {'other': texts[0][KEY]}),
             (tensors[0], {KEY: texts[0][KEY].replace('norm', 'Norm', 1)}), (tensors[0], {KEY: texts[0][KEY] + ' '}),
             (tensors[0], {KEY: '[' * 100_000}), (tensors[0], {KEY: '"text"'}), (tensors[0], {KEY: '{}'}),
             (tensors[0], {KEY: 'null'}), (tensors[0], {KEY: signed({'format_version': 1})})]
    cases += [(tensors[0], {KEY: signed({key: value for key, value in about.items() if key != absent})}) for absent in about
              if absent != 'sha256']
    cases += [(tensors[0], {KEY: signed({**about, key: 7.5})}) for key in about if key != 'sha256']
    cases += [(tensors[0], {KEY: signed({**about, 'dataset_meta': {'classes': bad}})}) for bad in (5, 'abc', [1], {'a': 1})]
    cases += [(tensors[0], {KEY: signed({**about, 'tensors': {**about['tensors'], name: value}})}) for name in ('number', 'bytes')
              for value in ('5', None, 10**400)]
    cases += [(tensors[0], {KEY: signed({**about, 'backbones': {'backbone': entry}})})
              for entry in (None, {}, {**about['backbones']['backbone'], 'adapter': None},
                            {**about['backbones']['backbone'], 'options': 3})]
    cases += [({**tensors[0], 'head.bias': tensors[0]['head.bias'] + 1e-6}, texts[0]),
              ({name.replace('head', 'heads'): value for name, value in tensors[0].items()}, texts[0]),
              ({name: value for name, value in tensors[0].items() if name != 'head.bias'}, texts[0]),
              ({name: value[None] for name, value in tensors[0].items()}, texts[0]), ({}, texts[0])]
    for number, (weights, text) in enumerate(cases):
        path = tmp_path / f'{number}.safetensors'
        path.write_bytes(save(weights, text))
        refused(path)
    assert len(cases) > 40


def test_what_could_not_be_read_is_not_written(folder, tmp_path):
    about = read_adapter(folder / 'good.safetensors').about
    for bad in (dict(metric=50.3), dict(dataset_meta=['a']), dict(dataset_meta=dict(classes=5)), dict(backbones=dict(a={}))):
        with pytest.raises(ValueError, match='description of an adapter file to write has no valid .*: nothing was written'):
            write_adapter(tmp_path / 'a.safetensors', {}, {**about, **bad})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('number', [0, 1, 3, '2', 1.5, True, None])
def test_another_format_version_is_named(number, folder, tmp_path):
    content = (folder / 'good.safetensors').read_bytes()
    about = read_adapter(folder / 'good.safetensors').about
    (tmp_path / 'a.safetensors').write_bytes(save(load(content), {KEY: signed({**about, 'format_version': number})}))
    remedy = 'export it again from the checkpoint' if number in (0, 1) and number is not True else 'use the mmparax that wrote it'
    with pytest.raises(ValueError, match=f'has format version {number!r}, and this mmparax reads version 2: {remedy}'):
        read_adapter(tmp_path / 'a.safetensors')


def hostiles(trace):
    """Pickles that leave a trace when they are read, in the wrappings that torch knows."""
    archive = io.BytesIO()
    torch.save({'state_dict': {'a': torch.ones(1)}, 'meta': Hostile(trace)}, archive)
    old = io.BytesIO()
    torch.save(Hostile(trace), old, _use_new_zipfile_serialization=False)
    pickles = [pickle.dumps(Hostile(trace), protocol=protocol) for protocol in range(6)]
    return [*pickles, archive.getvalue(), old.getvalue(), through_getattr(trace), b'cos\nsystem\n(S"true"\ntR.']


def test_a_pickle_under_that_name_is_not_read(folder, tmp_path):
    model = Model(folder)
    for content in hostiles(tmp_path / 'trace'):
        good = (folder / 'good.safetensors').read_bytes()
        for number, changed in enumerate((content, content + good, good[:8] + content + good[8:])):
            path = tmp_path / f'{number}.safetensors'
            path.write_bytes(changed)
            refused(path)
            for act in (CheckpointLoader.load_checkpoint, lambda path: load_checkpoint(model, path),
                        lambda path: mmparax.load_adapter(model, path)):
                with pytest.raises(UserError):
                    act(str(path))
    assert not (tmp_path / 'trace').exists()
    (tmp_path / '0.safetensors').write_bytes(hostiles(tmp_path / 'trace')[-4])
    with pytest.raises(ValueError, match='a torch file or another pickle under the name of a safetensors file: nothing of it'):
        read_adapter(tmp_path / '0.safetensors')


def test_hostile_text_is_text(folder, tmp_path):
    """Names and values of the description and of the tensors are never looked up, imported or opened."""
    about = read_adapter(folder / 'good.safetensors').about
    trace = tmp_path / 'trace'
    for text in (f"__import__('os').system('touch {trace}')", f'!!python/object/apply:os.system [touch {trace}]', f'$({trace})'):
        bad = {**about, 'model': text, 'dataset_meta': {'classes': [text]}, 'head': {'type': text}}
        bad['backbones'] = {'backbone': {**about['backbones']['backbone'], 'adapter': {'type': text}, 'base_checkpoint': text}}
        write_adapter(tmp_path / 'a.safetensors', load((folder / 'good.safetensors').read_bytes()), bad)
        for act in (mmparax.load_adapter, load_checkpoint):
            with pytest.raises(ValueError, match='trained with the adapter .*, but backbone has NormTuning'):
                act(Model(folder), str(tmp_path / 'a.safetensors'))
    assert not trace.exists()


def test_no_text_of_a_file_commands_the_terminal(folder, tmp_path, monkeypatch, capsys):
    about = read_adapter(folder / 'good.safetensors').about
    bad = {
        **about, 'model': TERMINAL, 'version': TERMINAL, 'dataset_meta': {'classes': [TERMINAL]}, 'metric': {TERMINAL: TERMINAL},
        'head': {TERMINAL: {'type': TERMINAL}}
    }
    entry = about['backbones']['backbone']
    tensors = load((folder / 'good.safetensors').read_bytes())
    for backbones in ({'a': {**entry, 'adapter': {'type': TERMINAL, TERMINAL: TERMINAL}}}, {TERMINAL: entry, 'b': entry}):
        write_adapter(tmp_path / 'a.safetensors', tensors, {**bad, 'backbones': backbones})
        for option in ([], ['--json']):
            monkeypatch.setattr('sys.argv', ['inspect_adapter.py', str(tmp_path / 'a.safetensors'), *option])
            runpy.run_path(str(Path(__file__).parents[2] / 'tools' / 'inspect_adapter.py'), run_name='__main__')
            shown = capsys.readouterr().out
            assert 'owned' in shown and all(sign.isprintable() or sign == '\n' for sign in shown)


def test_whatever_is_wrong_the_model_is_as_it_was(folder, tmp_path):
    """By both ways into a model, for a part of the damaged files."""
    model, content = Model(folder), (folder / 'good.safetensors').read_bytes()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = load(content)
    damaged = [*bits_of(content, 20, seed=2), content[:-4], save(whole), save(whole, {'other': ''})]
    for changed in damaged:
        (tmp_path / 'a.safetensors').write_bytes(changed)
        for act in (mmparax.load_adapter, load_checkpoint):
            with pytest.raises(UserError):
                act(model, str(tmp_path / 'a.safetensors'))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    load_checkpoint(model, str(folder / 'good.safetensors'))
    assert all(
        torch.equal(model.state_dict()[name.replace('.', 'backbone.', 1) if name[0] == '.' else name], value)
        for name, value in whole.items())
