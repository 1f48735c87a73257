"""Rows, table and chart of the benchmark."""
import pytest

from helpers.benchmarked import Toy, make_comparison
from mmparax.benchmark.candidates import TABLE_11, Candidate, list_candidates
from mmparax.benchmark.timing import OUT_OF_MEMORY, Measurement
from mmparax.benchmark.timing_report import draw_chart


def test_ratios_are_those_of_the_medians():
    rows = make_comparison({'full': [1., 2., 9.], 'adaroute': [2.5, 2., 2.6]}, {'full': 8e9, 'adaroute': 4e9}).build_rows()
    assert rows[0]['images_per_second'] == 2. and rows[0]['ratio_to_full'] == rows[0]['memory_ratio_to_full'] == 1.
    row = rows[1]
    assert (row['images_per_second'], row['milliseconds_per_step']) == (1.6, 2500.)
    assert (row['images_per_second_min'], row['images_per_second_max']) == (4 / 2.6, 2.)
    assert row['ratio_to_full'] == pytest.approx(0.8) and row['memory_ratio_to_full'] == 0.5


def test_without_full_fine_tuning_there_is_no_ratio():
    comparison = make_comparison({'full': None, 'adaroute': [1.]}, {'adaroute': 1e9})
    assert all(row['ratio_to_full'] is row['memory_ratio_to_full'] is None for row in comparison.build_rows())
    assert OUT_OF_MEMORY in comparison.format_table() and '4' in comparison.format_table()
    assert draw_chart([comparison]).axes


def test_a_ratio_is_to_full_fine_tuning_in_the_same_dtype():
    comparison = make_comparison({'full': [2.], 'mona': [4.]})
    half = [Measurement(Candidate(method, Toy, 'fp16'), training=[seconds]) for method, seconds in (('full', 1.), ('mona', 4.))]
    comparison.measurements = [*comparison.measurements, *half]
    assert [row['ratio_to_full'] for row in comparison.build_rows()] == [1., 0.5, 1., 0.25]
    assert 'fp16' in comparison.format_table()


def test_ratios_to_the_plain_adapters_stand_where_those_ran():
    comparison = make_comparison({'adaroute': [2.], 'plain-adaroute': [3.], 'plain-mona': [1.]})
    assert [row['ratio_to_plain_adaroute'] for row in comparison.build_rows()] == [1.5, 1., 3.]
    assert [row['ratio_to_plain_mona'] for row in comparison.build_rows()] == pytest.approx([0.5, 1 / 3, 1.])
    assert comparison.format_table().count('plain') >= 4
    alone = make_comparison({'full': [2.], 'adaroute': [2.]})
    assert all(row['ratio_to_plain_mona'] is None for row in alone.build_rows()) and 'plain' not in alone.format_table()


def test_published_ratios_are_a_column_of_their_own_and_only_for_the_papers_setting():
    published = {
        (backbone, size, batch): [
            row.published
            for row in list_candidates(backbone, ['full', 'adaroute', 'plain-adaroute'], size, batch, ['fp16'], ['auto'], [True])
        ] for backbone, size, batch in (('swin-l', (1280, 800), 4), ('swin-l', (1280, 800), 2), ('swin-b', (1280, 800), 4))
    }
    assert published.pop(('swin-l', (1280, 800), 4)) == [1., pytest.approx(0.855, abs=5e-4), None]
    assert set(sum(published.values(), [])) == {None}
    assert 'L40S' not in make_comparison({'full': [1.]}).format_table()
    table = make_comparison({'full': [1.], 'adaroute': [1.]}, adaroute=0.855).format_table()
    assert 'published' in table and '0.855' in table and '1.000' in table
    assert TABLE_11 == {
        'full': 4.63, 'lora': 4.07, 'adaptformer': 5.15, 'lorand': 5.11, 'mona': 3.94, 'adaroute-no-conv': 4.96, 'adaroute': 3.96
    }
