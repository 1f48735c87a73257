"""Problems of many files, collected by kind and told together."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mmparax.errors import InputError

KEPT = 20  # items of one kind that are kept and shown; the others are counted


@dataclass
class Problem:
    """One kind of problem.

    Attributes:
        kind: what is wrong with each item, a noun phrase such as ``'masks with values that are no class'``.
        items: the first :data:`KEPT` of them, such as ``'0001.png: 14, 15'``.
        count: number of all.
        remedy: what to do, whole sentences, or ''.
        warning: whether training can go on in spite of it.
    """
    kind: str
    items: list[str] = field(default_factory=list)
    count: int = 0
    remedy: str = ''
    warning: bool = False

    def format_lines(self, shown: int = KEPT) -> list[str]:
        """The kind with its number, the remedy, then an item a line."""
        lines = [f'  {self.kind} ({self.count}):' + (f' {self.remedy}' if self.remedy else '')]
        lines += [f'    {item}' for item in self.items[:shown]]
        left = self.count - len(self.items[:shown])
        return lines + ([f'    and {left} more'] if left else [])

    def summarize(self) -> str:
        """One sentence: the number, the kind, the first items, the remedy."""
        text = f'{self.count} {self.kind}'
        if self.items:
            shown = [item for item in self.items[:3] if item]
            text += f': {"; ".join(shown)}' if shown else ''
            text += ', ...' if self.count > len(shown) > 0 else ''
        return f'{text}.' + (f' {self.remedy}' if self.remedy else '')


class ProblemList:
    """Problems by kind, in the order in which they were first seen."""

    def __init__(self) -> None:
        self._kinds: dict[str, Problem] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._kinds.values())

    def add(self, kind: str, item: str = '', remedy: str = '', warning: bool = False, count: int = 1) -> None:
        """Add ``count`` items of a kind, of which ``item`` is the one to show."""
        problem = self._kinds.setdefault(kind, Problem(kind, remedy=remedy, warning=warning))
        problem.count += count
        if item and len(problem.items) < KEPT:
            problem.items.append(item)

    def merge(self, other: ProblemList) -> None:
        """Add all of another list."""
        for problem in other:
            own = self._kinds.setdefault(problem.kind, Problem(problem.kind, remedy=problem.remedy, warning=problem.warning))
            own.count += problem.count
            own.items += problem.items[:KEPT - len(own.items)]

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self if not problem.warning]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self if problem.warning]

    def format(self, shown: int = KEPT) -> str:
        """All problems, a line each under their kinds; every line starts with a newline."""
        return ''.join(f'\n{line}' for problem in self for line in problem.format_lines(shown))

    def raise_errors(self, sentence: str) -> None:
        """Raise InputError if there is an error (warnings are none).

        Args:
            sentence: what was looked at and what follows, such as ``"in 'masks'; nothing was written"``; the number of problems
                is put in front and the list behind.
        """
        if self.errors:
            found = ProblemList()
            for problem in self.errors:
                found._kinds[problem.kind] = problem
            raise InputError(f'{sum(problem.count for problem in found)} problem(s) {sentence}.{found.format()}')

    def to_json(self) -> list[dict[str, Any]]:
        """As plain lists and dicts."""
        return [asdict(problem) for problem in self]

    @classmethod
    def from_json(cls, entries: list[Mapping[str, Any]]) -> ProblemList:
        """What :meth:`to_json` wrote."""
        found = cls()
        for entry in entries:
            found._kinds[entry['kind']] = Problem(**entry)
        return found
