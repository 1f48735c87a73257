"""The paper's tables with what was measured here beside what was published: never one in the place of the other."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from mmparax.reproduce.entries import BACKBONES, DATASETS, TABLES, Cell, published_average
from mmparax.reproduce.runner import Runner
from mmparax.reproduce.state import DONE, NOT_RUN, State, seeds_of, summary
from mmparax.reproduce.tiny import RULES, TABLE_RULES
from mmparax.utils.tables import mean_and_spread

NONE = '–'
OUTDATED = '*'  # at a seed
PER_SECTION = 3  # metrics side by side


@dataclass
class Value:
    """What stands in a field of a table: pieces of text, each with a link or None, and whose number it is."""
    pieces: List[Tuple[str, Optional[str]]]
    kind: str = ''  # 'published' or 'measured'

    @property
    def text(self) -> str:
        return ''.join(text for text, _ in self.pieces)


@dataclass
class Section:
    """One table of the report with sentences above and below it."""
    title: str
    header: List[str]
    rows: List[List[Value]] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


def plain(text: str, kind: str = '') -> Value:
    return Value([(text, None)], kind)


def millions(value: Optional[float], digits: int = 1) -> str:
    return NONE if value is None else f'{value:.{digits}f}'


class Report:
    """Gathers what is on disk of some cells.

    Args:
        runner: knows the scale and the folders.
        cells: those of the report.
        folder: where the report will be; logs below it are linked, relative to it.
        seeds: how many there should be of each cell.
    """

    def __init__(self, runner: Runner, cells: Sequence[Cell], folder: Path, seeds: int = 1):
        self.runner, self.cells, self.folder, self.seeds = runner, list(cells), folder.resolve(), seeds
        self.tiny = runner.scale.name == 'tiny'
        self.states: Dict[str, Dict[int, State]] = {}
        for cell in self.cells:
            if cell.name not in self.states:
                path = runner.folder(cell, 0).path.parent
                self.states[cell.name] = {seed: runner.state(cell, seed) for seed in seeds_of(path)}

    def sections(self) -> List[Section]:
        """The tables in order; one with many metrics in two parts."""
        sections = []
        for number in dict.fromkeys(cell.table for cell in self.cells):
            cells = [cell for cell in self.cells if cell.table == number]
            if self.tiny:
                sections.append(self._tiny(number, cells))
            else:
                metrics = TABLES[number].metrics
                for start in range(0, len(metrics), PER_SECTION):
                    sections.append(self._full(number, cells, metrics[start:start + PER_SECTION]))
        return sections

    def introduction(self) -> List[str]:
        """Sentences on top."""
        runs = {(name, seed): state for name, states in self.states.items() for seed, state in states.items()}
        done = [state.result for state in runs.values() if state.kind == DONE]
        machines = sorted({result['machine'] for result in done})
        other = sum(map(self._outdated, runs.values()))
        measured = f'{len(done)} runs are done' + (f', on {", ".join(machines)}' if machines else '') + (
            f'; {other} of them by other code than the present one' if other else '')
        strange = sum(state.kind == NOT_RUN for state in runs.values())
        measured += f'; {strange} of other settings are on disk and are not counted' if strange else ''
        if not self.tiny:
            return ['"Published" is what the paper prints, "measured here" what runs of this project gave: mean ± standard '
                    f'deviation over seeds. {measured}. # P: trained parameters of the backbone in millions.']
        iterations = sorted({result['settings']['iterations'] for result in done})
        scenes = sorted({f'{counts["train"]} for training and {counts["val"]} for validation'
                         for result in done if (counts := result['settings']['scenes'])})
        return ['The methods on small synthetic scenes with small backbones: a check that all of them work, on equal terms. It '
                'says nothing about real data, and its numbers cannot be compared with the published ones: the columns '
                '"published (paper\'s scale)" are there for the order of the methods only.',
                f'{measured}; iterations: {", ".join(map(str, iterations)) or NONE}; scenes: {", ".join(scenes) or NONE}. '
                'Mean ± standard deviation over seeds, in percent.', *RULES]

    # ---- fields ----

    def _values(self, cell: Cell, metric: str) -> List[float]:
        """What was measured, a value for each seed that is done; nothing if one of them could not be measured."""
        values = [state.result['metrics'].get(metric) for state in self.states[cell.name].values() if state.kind == DONE]
        return [] if None in values else values

    def _measured(self, cell: Cell, metric: str) -> Value:
        states = self.states[cell.name]
        values = self._values(cell, metric)
        if values:
            wanted = {*range(self.seeds), *(seed for seed, state in states.items() if state.kind != NOT_RUN)}
            missing = f' ({len(values)} of {len(wanted)} seeds)' if len(values) < len(wanted) else ''
            return plain(mean_and_spread(values) + missing, 'measured')
        if any(state.kind == DONE for state in states.values()):
            return plain('not measurable', 'measured')
        started = {seed: state for seed, state in states.items() if state.kind != NOT_RUN}
        return plain(summary(started) if started else NOT_RUN)

    def _difference(self, cell: Cell, metric: str) -> Value:
        values = self._values(cell, metric)
        if not values or metric not in cell.published:
            return plain(NONE)
        return difference(sum(values) / len(values), cell.published[metric])

    def _outdated(self, state: State) -> bool:
        return state.kind == DONE and state.result.get('code') != self.runner.code

    def _seeds(self, cell: Cell) -> Value:
        """Seeds, each with what it is if not done, and with a link to its log if that goes along with the report."""
        pieces: List[Tuple[str, Optional[str]]] = []
        for seed, state in self.states[cell.name].items():
            run = self.runner.folder(cell, seed)
            log = run.train_log if state.kind != DONE or run.train_log.exists() else run.test_log
            if state.kind == NOT_RUN or not log.exists():
                continue
            log = log.resolve()
            link = log.relative_to(self.folder).as_posix() if log.is_relative_to(self.folder) else None
            mark = OUTDATED if self._outdated(state) else '' if state.kind == DONE else f': {state.kind}'
            pieces += [*([(', ', None)] if pieces else []), (f'{seed}{mark}', link)]
        return Value(pieces or [(NONE, None)])

    def _marks(self, cells: Sequence[Cell]) -> List[str]:
        """What the marks at the seeds mean, if there are any."""
        outdated = any(self._outdated(state) for cell in cells for state in self.states[cell.name].values())
        return [f'{OUTDATED}: run by other code than the present one.'] if outdated else []

    def _head(self, number: int, cell: Cell) -> List[Value]:
        names = [cell.row] if number > 4 else [BACKBONES.get(cell.backbone, cell.backbone), cell.row]
        return [plain(name) for name in names + ([DATASETS[cell.dataset]] if number == 4 and not self.tiny else [])]

    @staticmethod
    def _head_names(number: int, tiny: bool) -> List[str]:
        return ['variant'] if number > 4 else ['backbone', 'method'] + (['data set'] if number == 4 and not tiny else [])

    # ---- tables ----

    def _full(self, number: int, cells: Sequence[Cell], metrics: Sequence[str]) -> Section:
        part = f': {metrics[0]}' if len(TABLES[number].metrics) > PER_SECTION else ''
        header = [*self._head_names(number, False), '# P published', '# P built']
        for metric in metrics:
            header += [f'{metric} published', f'{metric} measured here', 'difference']
        section = Section(f'Table {number}. {TABLES[number].title}{part}', [*header, 'seeds (logs)'])
        for cell in cells:
            row = [*self._head(number, cell), plain(millions(cell.params_published), 'published'),
                   plain(millions(self.runner.scale.parameters(cell) / 1e6, 3))]
            for metric in metrics:
                row += [plain(millions(cell.published.get(metric)), 'published'), self._measured(cell, metric),
                        self._difference(cell, metric)]
            section.rows.append([*row, self._seeds(cell)])
            same = [other for other in cells if (other.backbone, other.row) == (cell.backbone, cell.row)]
            if number == 4 and cell is same[-1]:
                section.rows.append(self._average(same))
        section.notes += self._marks(cells)
        return section

    def _average(self, cells: Sequence[Cell]) -> List[Value]:
        """The row of a method's mean over the data sets of Table 4, measured only if all of them are."""
        first, metric = cells[0], TABLES[4].metrics[0]
        published = published_average(first.backbone, first.row)
        means = [sum(values) / len(values) for cell in cells if (values := self._values(cell, metric))]
        row = [*self._head(4, first)[:-1], plain('average'), plain(NONE), plain(NONE), plain(f'{published:.1f}', 'published')]
        if len(means) < 3:
            return [*row, plain(NOT_RUN if not means else f'{len(means)} of 3 data sets'), plain(NONE), plain(NONE)]
        mean = sum(means) / len(means)
        return [*row, plain(f'{mean:.1f}', 'measured'), difference(mean, published), plain(NONE)]

    def _tiny(self, number: int, cells: Sequence[Cell]) -> Section:
        metrics, scale = TABLES[number].metrics, self.runner.scale
        first = metrics[0]
        section = Section(f'Table {number} at tiny scale (in the paper: {TABLES[number].title})', [], notes=[
            f'Iterations: {scale.iterations(cells[0])}.' + (f' {TABLE_RULES[number]}' if number in TABLE_RULES else '')])
        sources = list(dict.fromkeys(self._source(paper) for cell in cells for paper in cell.papers))
        section.header = [*self._head_names(number, True), 'size', 'trained in the backbone',
                          *(f'{metric} measured here (tiny)' for metric in metrics), 'rank measured', 'seeds (logs)',
                          *(name for source in sources
                            for name in (f"{first} published (paper's scale), {source}", 'rank published'))]
        section.notes += self._marks(cells)
        for backbone in dict.fromkeys(cell.backbone for cell in cells):
            same = [cell for cell in cells if cell.backbone == backbone]
            means = {cell.row: sum(values) / len(values) for cell in same if (values := self._values(cell, first))}
            # Whom the paper does not rank is not ranked here either.
            here = {row: mean for row, mean in means.items() if any(cell.row == row and cell.papers for cell in same)}
            published = {source: {cell.row: paper.published[first] for cell in same for paper in cell.papers
                                  if self._source(paper) == source} for source in sources}
            for cell in same:
                row = [*self._head(number, cell), plain(scale.size(cell) or NONE), plain(f'{scale.parameters(cell):,}')]
                row += [self._measured(cell, metric) for metric in metrics]
                row += [plain(rank(here, cell.row), 'measured'), self._seeds(cell)]
                for source in sources:
                    row += [plain(millions(published[source].get(cell.row)), 'published'),
                            plain(rank(published[source], cell.row), 'published')]
                section.rows.append(row)
            for source, numbers in published.items():
                if numbers:
                    section.notes.append(f'{backbone}: order published for {source}: {order(numbers)}.')
            section.notes.append(f'{backbone}: order measured here by {first}: {order(here) if len(here) > 1 else NOT_RUN}.')
        return section

    @staticmethod
    def _source(paper: Cell) -> str:
        return DATASETS[paper.dataset] if paper.table == 4 else BACKBONES[paper.backbone]


def difference(measured: float, published: float) -> Value:
    """Measured less published, with its sign."""
    return plain(f'{measured - published:+.1f}'.replace('-', '−'), 'measured')


def rank(numbers: Dict[str, float], row: str) -> str:
    """1 for the best; equal numbers share a rank."""
    return str(1 + sum(value > numbers[row] for value in numbers.values())) if row in numbers else NONE


def order(numbers: Dict[str, float]) -> str:
    """Names from best to worst; '=' between equal numbers of one decimal."""
    names = sorted(numbers, key=lambda name: -numbers[name])
    text = names[0]
    for before, name in zip(names, names[1:]):
        text += (' = ' if f'{numbers[before]:.1f}' == f'{numbers[name]:.1f}' else ' > ') + name
    return text
