"""Waits for another package to be imported."""
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def run_after_import(package: str, function: Callable[[], None]) -> None:
    """Call ``function`` as soon as ``package`` has been imported: at once if it is already, else right behind its first import.

    So a change to another package takes no part in the time of ``import mmparax``, and none where that package is not used.

    Args:
        package: a top-level package.
        function: called once, without arguments.
    """
    if sys.modules.get(package) is not None:  # None: its import is forbidden
        function()
        return
    if not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())
    next(finder for finder in sys.meta_path if isinstance(finder, _Waiting)).functions.setdefault(package, []).append(function)


class _Waiting(MetaPathFinder):
    """Finds packages as the other finders do, and calls functions when one has been executed.

    Attributes:
        functions: package -> what is to be called.
    """

    def __init__(self) -> None:
        self.functions: dict[str, list[Callable[[], None]]] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in self.functions:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, 'find_spec')]
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            self._extend(spec.loader, fullname)
        return spec

    def _extend(self, loader: Loader, package: str) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for function in self.functions.pop(package, ()):
                function()

        changed: Any = loader  # of this one import: the class stays as it is
        changed.exec_module = exec_module
