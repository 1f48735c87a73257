"""The paper's tables with what was measured here beside what was published; one never stands in the place of the other."""
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from mmparax.reproduce.entries import BACKBONES, DATASETS, TABLES, TableEntry, read_published_average
from mmparax.reproduce.runner import TableRunner
from mmparax.reproduce.state import DONE, NOT_RUN, RunState, list_seeds, summarize_states
from mmparax.reproduce.tiny import RULES, TABLE_RULES, TinyScale
from mmparax.utils.tables import format_mean_and_spread

NONE = '–'
OUTDATED = '*'  # at a seed
METRICS_PER_TABLE = 3  # side by side


@dataclass
class ReportField:
    """What stands in a field of a table.

    Attributes:
        pieces: (text, link or None).
        kind: whose number it is: ``'published'``, ``'measured'``, or '' for neither.
    """
    pieces: list[tuple[str, str | None]]
    kind: str = ''

    @property
    def text(self) -> str:
        return ''.join(text for text, _ in self.pieces)


@dataclass
class ComparisonTable:
    """One table of the report, with its title and the sentences below it."""
    title: str
    header: list[str]
    rows: list[list[ReportField]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_field(text: str, kind: str = '') -> ReportField:
    return ReportField([(text, None)], kind)


def format_millions(value: float | None, digits: int = 1) -> str:
    return NONE if value is None else f'{value:.{digits}f}'


class TablesReport:
    """Gathers what is on disk of some table entries.

    Args:
        runner: knows the scale and the folders.
        entries: those of the report.
        folder: where the report will be; logs below it are linked, relative to it.
        seeds: which there should be of each entry.
    """

    def __init__(self, runner: TableRunner, entries: Sequence[TableEntry], folder: Path, seeds: Sequence[int] = (0, )):
        self.runner, self.entries, self.folder, self.seeds = runner, list(entries), folder.resolve(), seeds
        self.tiny = runner.scale.name == 'tiny'
        self.states: dict[str, dict[int, RunState]] = {}
        for entry in self.entries:
            if entry.name not in self.states:
                path = runner.get_folder(entry, 0).path.parent
                self.states[entry.name] = {seed: runner.read_state(entry, seed) for seed in list_seeds(path)}

    def build_tables(self) -> list[ComparisonTable]:
        """The tables in order; one with many metrics comes in two parts."""
        tables = []
        for number in dict.fromkeys(entry.table for entry in self.entries):
            entries = [entry for entry in self.entries if entry.table == number]
            if self.tiny:
                tables.append(self._build_tiny_table(number, entries))
            else:
                metrics = TABLES[number].metrics
                for start in range(0, len(metrics), METRICS_PER_TABLE):
                    tables.append(self._build_full_table(number, entries, metrics[start:start + METRICS_PER_TABLE]))
        return tables

    def build_introduction(self) -> list[str]:
        """Sentences on top."""
        runs = {(name, seed): state for name, states in self.states.items() for seed, state in states.items()}
        done = [state.result for state in runs.values() if state.kind == DONE]
        machines = sorted({result['machine'] for result in done})
        other = sum(map(self._is_outdated, runs.values()))
        measured = f'{len(done)} runs are done' + (f', on {", ".join(machines)}' if machines else '') + (
            f'; {other} of them by other code than the present one' if other else '')
        strange = sum(state.kind == NOT_RUN for state in runs.values())
        measured += f'; {strange} of other settings are on disk and are not counted' if strange else ''
        if not self.tiny:
            return [
                '"Published" is what the paper prints, "measured here" what runs of this project gave: mean ± standard '
                f'deviation over seeds. {measured}. # P: trainable parameters of the backbone in millions.'
            ]
        iterations = sorted({result['settings']['iterations'] for result in done})
        scenes = sorted({
            f'{counts["train"]} for training and {counts["val"]} for validation' for result in done
            if (counts := result['settings']['scenes'])
        })
        return [
            'The methods on small synthetic scenes with mini backbones: a check that all of them work, on equal terms. It '
            'says nothing about real data, and its numbers cannot be compared with the published ones: the columns '
            '"published (paper\'s scale)" are there for the order of the methods only.',
            f'{measured}; iterations: {", ".join(map(str, iterations)) or NONE}; scenes: {", ".join(scenes) or NONE}. '
            'Mean ± standard deviation over seeds, in percent.', *RULES
        ]

    # ---- fields ----

    def _collect_values(self, entry: TableEntry, metric: str) -> list[float]:
        """What was measured, a value for each seed that is done; nothing if one of them could not be measured."""
        values = [state.result['metrics'].get(metric) for state in self.states[entry.name].values() if state.kind == DONE]
        return [] if None in values else values

    def _make_measured_field(self, entry: TableEntry, metric: str) -> ReportField:
        states = self.states[entry.name]
        values = self._collect_values(entry, metric)
        if values:
            wanted = {*self.seeds, *(seed for seed, state in states.items() if state.kind != NOT_RUN)}
            missing = f' ({len(values)} of {len(wanted)} seeds)' if len(values) < len(wanted) else ''
            return make_field(format_mean_and_spread(values) + missing, 'measured')
        if any(state.kind == DONE for state in states.values()):
            return make_field('not measurable', 'measured')
        started = {seed: state for seed, state in states.items() if state.kind != NOT_RUN}
        return make_field(summarize_states(started) if started else NOT_RUN)

    def _make_difference_field(self, entry: TableEntry, metric: str) -> ReportField:
        values = self._collect_values(entry, metric)
        if not values or metric not in entry.published:
            return make_field(NONE)
        return make_difference(sum(values) / len(values), entry.published[metric])

    def _is_outdated(self, state: RunState) -> bool:
        return state.kind == DONE and state.result.get('code') != self.runner.code

    def _make_seeds_field(self, entry: TableEntry) -> ReportField:
        """Seeds, each with what it is if not done, and with a link to its log if that goes along with the report."""
        pieces: list[tuple[str, str | None]] = []
        for seed, state in self.states[entry.name].items():
            run = self.runner.get_folder(entry, seed)
            log = run.train_log if state.kind != DONE or run.train_log.exists() else run.test_log
            if state.kind == NOT_RUN or not log.exists():
                continue
            log = log.resolve()
            link = log.relative_to(self.folder).as_posix() if log.is_relative_to(self.folder) else None
            mark = OUTDATED if self._is_outdated(state) else '' if state.kind == DONE else f': {state.kind}'
            pieces += [*([(', ', None)] if pieces else []), (f'{seed}{mark}', link)]
        return ReportField(pieces or [(NONE, None)])

    def _explain_marks(self, entries: Sequence[TableEntry]) -> list[str]:
        """What the marks at the seeds mean, if there are any."""
        outdated = any(self._is_outdated(state) for entry in entries for state in self.states[entry.name].values())
        return [f'{OUTDATED}: run by other code than the present one.'] if outdated else []

    def _make_head(self, number: int, entry: TableEntry) -> list[ReportField]:
        names = [entry.row] if number > 4 else [BACKBONES.get(entry.backbone, entry.backbone), entry.row]
        return [make_field(name) for name in names + ([DATASETS[entry.dataset]] if number == 4 and not self.tiny else [])]

    @staticmethod
    def _name_head(number: int, tiny: bool) -> list[str]:
        return ['variant'] if number > 4 else ['backbone', 'method'] + (['data set'] if number == 4 and not tiny else [])

    # ---- tables ----

    def _build_full_table(self, number: int, entries: Sequence[TableEntry], metrics: Sequence[str]) -> ComparisonTable:
        part = f': {metrics[0]}' if len(TABLES[number].metrics) > METRICS_PER_TABLE else ''
        header = [*self._name_head(number, False), '# P published', '# P built']
        for metric in metrics:
            header += [f'{metric} published', f'{metric} measured here', 'difference']
        table = ComparisonTable(f'Table {number}. {TABLES[number].title}{part}', [*header, 'seeds (logs)'])
        for entry in entries:
            row = [
                *self._make_head(number, entry),
                make_field(format_millions(entry.params_published), 'published'),
                make_field(format_millions(self.runner.scale.count_parameters(entry) / 1e6, 3))
            ]
            for metric in metrics:
                row += [
                    make_field(format_millions(entry.published.get(metric)), 'published'),
                    self._make_measured_field(entry, metric),
                    self._make_difference_field(entry, metric)
                ]
            table.rows.append([*row, self._make_seeds_field(entry)])
            same = [other for other in entries if (other.backbone, other.row) == (entry.backbone, entry.row)]
            if number == 4 and entry is same[-1]:
                table.rows.append(self._build_average_row(same))
        table.notes += self._explain_marks(entries)
        return table

    def _build_average_row(self, entries: Sequence[TableEntry]) -> list[ReportField]:
        """The row of a method's mean over the data sets of Table 4, measured only if all of them are."""
        first, metric = entries[0], TABLES[4].metrics[0]
        published = read_published_average(first.backbone, first.row)
        means = [sum(values) / len(values) for entry in entries if (values := self._collect_values(entry, metric))]
        nothing = make_field(NONE)
        row = [
            *self._make_head(4, first)[:-1],
            make_field('average'), nothing, nothing,
            make_field(f'{published:.1f}', 'published')
        ]
        if len(means) < 3:
            return [*row, make_field(NOT_RUN if not means else f'{len(means)} of 3 data sets'), nothing, nothing]
        mean = sum(means) / len(means)
        return [*row, make_field(f'{mean:.1f}', 'measured'), make_difference(mean, published), nothing]

    def _build_tiny_table(self, number: int, entries: Sequence[TableEntry]) -> ComparisonTable:
        metrics, scale = TABLES[number].metrics, cast(TinyScale, self.runner.scale)
        first = metrics[0]
        table = ComparisonTable(
            f'Table {number} at tiny scale (in the paper: {TABLES[number].title})', [], notes=[
                f'Iterations: {scale.get_iterations(entries[0])}.' + (f' {TABLE_RULES[number]}' if number in TABLE_RULES else '')
            ])
        sources = list(dict.fromkeys(self._name_source(paper) for entry in entries for paper in entry.papers))
        table.header = [
            *self._name_head(number, True), 'size', 'trainable in the backbone',
            *(f'{metric} measured here (tiny)' for metric in metrics), 'rank measured', 'seeds (logs)',
            *(name for source in sources for name in (f"{first} published (paper's scale), {source}", 'rank published'))
        ]
        table.notes += self._explain_marks(entries)
        for backbone in dict.fromkeys(entry.backbone for entry in entries):
            same = [entry for entry in entries if entry.backbone == backbone]
            means = {entry.row: sum(values) / len(values) for entry in same if (values := self._collect_values(entry, first))}
            # What the paper does not rank is not ranked here either.
            here = {row: mean for row, mean in means.items() if any(entry.row == row and entry.papers for entry in same)}
            published = {
                source: {
                    entry.row: paper.published[first] for entry in same for paper in entry.papers
                    if self._name_source(paper) == source
                } for source in sources
            }
            for entry in same:
                row = [
                    *self._make_head(number, entry),
                    make_field(scale.describe_size(entry) or NONE),
                    make_field(f'{scale.count_parameters(entry):,}')
                ]
                row += [self._make_measured_field(entry, metric) for metric in metrics]
                row += [make_field(compute_rank(here, entry.row), 'measured'), self._make_seeds_field(entry)]
                for source in sources:
                    row += [
                        make_field(format_millions(published[source].get(entry.row)), 'published'),
                        make_field(compute_rank(published[source], entry.row), 'published')
                    ]
                table.rows.append(row)
            for source, numbers in published.items():
                if numbers:
                    table.notes.append(f'{backbone}: order published for {source}: {format_order(numbers)}.')
            table.notes.append(f'{backbone}: order measured here by {first}: {format_order(here) if len(here) > 1 else NOT_RUN}.')
        return table

    @staticmethod
    def _name_source(paper: TableEntry) -> str:
        return DATASETS[paper.dataset] if paper.table == 4 else BACKBONES[paper.backbone]


def make_difference(measured: float, published: float) -> ReportField:
    """Measured less published, with its sign."""
    return make_field(f'{measured - published:+.1f}'.replace('-', '−'), 'measured')


def compute_rank(numbers: dict[str, float], row: str) -> str:
    """1 for the best; equal numbers share a rank; a dash for a row without a number."""
    return str(1 + sum(value > numbers[row] for value in numbers.values())) if row in numbers else NONE


def format_order(numbers: dict[str, float]) -> str:
    """Names from best to worst; '=' between equal numbers of one decimal."""
    names = sorted(numbers, key=lambda name: -numbers[name])
    text = names[0]
    for before, name in zip(names, names[1:]):
        text += (' = ' if f'{numbers[before]:.1f}' == f'{numbers[name]:.1f}' else ' > ') + name
    return text
