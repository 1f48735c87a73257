"""Digests of code and configs: what changes them and what does not."""
import pytest

from mmparax.reproduce.settings import ROOMS, compute_code_version
from mmparax.utils.code_digest import encode_content, normalize_source, read_package_source


def test_only_code_that_does_something_counts():
    source = 'def f():\n    "Doc."\n    return 1  # one\n'
    assert normalize_source(source) == normalize_source('"Module."\n\n\ndef f(): return 1\n')
    assert normalize_source('x = 1') != normalize_source('x = 2')


def test_the_order_of_names_does_not_count():
    assert encode_content(dict(a=1, b=[2])) == encode_content(dict(b=[2], a=1)) != encode_content(dict(a=1, b=[3]))


def test_a_part_that_the_package_lacks_is_an_error():
    assert read_package_source('version.py') in read_package_source('version.py', 'errors.py')
    with pytest.raises(FileNotFoundError, match='nowhere'):
        read_package_source('nowhere')


def test_the_version_of_the_code_covers_operations_data_and_weights():
    assert {'adapters', 'backbones', 'datasets', 'ops', 'optim.py', 'weights'} == set(ROOMS)
    assert len(compute_code_version()) == 16
