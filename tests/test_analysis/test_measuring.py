"""Sums over batches that continue after an interruption."""
import os

import numpy as np

from helpers.runs import in_child
from mmparax.analysis.measuring import sum_batches


def test_a_killed_sum_goes_on(tmp_path):
    """Killed, not interrupted: nothing is written at its end."""
    batches, terms = [[0, 1], [2, 3], [4]], np.random.default_rng(0).standard_normal((3, 4))
    calls = []

    def compute(numbers):
        calls.append(numbers[0] // 2)
        return terms[numbers[0] // 2]

    def kill(numbers):
        if numbers == [4]:
            os._exit(9)
        return compute(numbers)

    assert in_child(lambda: sum_batches(tmp_path / 'a', ['key'], batches, kill, '', False, every=0)) == 9
    found = sum_batches(tmp_path / 'a', ['key'], batches, compute, '', False)
    assert calls == [2]
    np.testing.assert_array_equal(found, sum_batches(tmp_path / 'b', ['key'], batches, compute, '', False))
    assert calls == [2, 0, 1, 2]
    sum_batches(tmp_path / 'a', ['other key'], batches, compute, '', False)
    assert len(calls) == 7


def test_a_broken_file_of_sums_is_computed_anew(tmp_path, capsys):
    found = sum_batches(tmp_path, ['key'], [[0]], lambda numbers: np.ones(2), '', False)
    path, = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:40])
    np.testing.assert_array_equal(found, sum_batches(tmp_path, ['key'], [[0]], lambda numbers: np.ones(2), '', False))
    assert f'{path} cannot be read: its sum is computed anew' in capsys.readouterr().err
