"""The digest of checkpoints that mmparax writes: nothing loads that is not as it was written."""
import io
import zipfile
from collections import OrderedDict

import pytest
import torch

from helpers.fuzz import judge_in_child, mutate, summarize
from mmparax.deploy.standalone import write_checkpoint
from mmparax.errors import InputError
from mmparax.weights.reader import has_digest, read_file
from mmparax.weights.seal import RECORD, seal_archive

CONTENT = dict(state_dict=OrderedDict(weight=torch.arange(600.).view(20, 30), tied=torch.ones(3)),
               meta=dict(epoch=1, names=['a']))


def pack(content=CONTENT):
    stream = io.BytesIO()
    torch.save(content, stream)
    return seal_archive(stream.getvalue())


def repack(data, change):
    """Another archive of the same records, as a tool that knows nothing of the digest would write it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, 'w') as new:
        for record in old.infolist():
            content = change(record.filename.partition('/')[2], old.read(record))
            if content is not None:
                new.writestr(record.filename, content)
    return stream.getvalue()


def test_pytorch_itself_reads_the_file(tmp_path):
    (tmp_path / 'a.pth').write_bytes(pack())
    for mmap in (False, True):
        loaded = torch.load(tmp_path / 'a.pth', weights_only=True, mmap=mmap)
        assert repr(loaded) == repr(CONTENT)
    assert repr(read_file(tmp_path / 'a.pth')) == repr(CONTENT) and has_digest(tmp_path / 'a.pth', None)


def flip(name, content):
    return content[:-1] + bytes([content[-1] ^ 1]) if name == 'data/0' else content


@pytest.mark.parametrize('change', [
    flip,
    lambda name, content: content.replace(b'weight', b'weighs') if name == 'data.pkl' else content,
    lambda name, content: b'0' * 64 if name == RECORD else content,
    lambda name, content: None if name == 'version' else content,
], ids=['a value', 'a name', 'the digest', 'a record'])
def test_what_is_not_as_it_was_written_is_refused(change, tmp_path):
    data = repack(pack(), lambda name, content: content)
    (tmp_path / 'a.pth').write_bytes(data)
    assert repr(read_file(tmp_path / 'a.pth')) == repr(CONTENT)
    (tmp_path / 'a.pth').write_bytes(repack(pack(), change))
    with pytest.raises(InputError, match='the digest differs'):
        read_file(tmp_path / 'a.pth')


def test_a_file_without_a_digest_is_read(tmp_path):
    torch.save(CONTENT, tmp_path / 'a.pth')
    assert repr(read_file(tmp_path / 'a.pth')) == repr(CONTENT) and not has_digest(tmp_path / 'a.pth', None)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('count', [300, pytest.param(2000, marks=pytest.mark.full)])
def test_no_mutation_of_a_stand_alone_checkpoint_changes_values(count, suffix, tmp_path):
    path = tmp_path / f'whole{suffix}'
    write_checkpoint(path, CONTENT)
    data, good = path.read_bytes(), read_file(path)
    assert has_digest(path, good)

    def judge(seed):
        other = tmp_path / f'{seed}{suffix}'
        other.write_bytes(mutate(data, seed))
        try:
            found = read_file(other)
            if suffix == '.safetensors' and not has_digest(other, found):
                return 'no digest'
            return 'same' if repr(found) == repr(good) else 'other'
        except InputError:
            return 'refused'
        except Exception as error:
            return f'{type(error).__name__}: {error}'
        finally:
            other.unlink()

    answers = judge_in_child(judge, list(range(count)))
    found = summarize(answers)
    assert found.keys() <= {'same', 'refused', 'no digest'} and 'refused' in found, found
    # Only damage to the very name of the digest makes a safetensors file one without, and that is said when it is loaded.
    assert list(answers.values()).count('no digest') <= count / 100
