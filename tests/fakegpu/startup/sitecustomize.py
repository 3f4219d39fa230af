"""Imported by each Python process at its start, if its folder is on PYTHONPATH: the fake GPU goes on when torch is imported.

Thus a child process, however it was started, computes as its parent does. Without this, torch would see a GPU there
whose kernels do nothing.
"""

import importlib.abc
import importlib.util
import sys


class _TorchFinder(importlib.abc.MetaPathFinder):
    """Finds torch by the other finders, and adds a call of `fakegpu.activate` to its loading."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_activate(module):
                load(module)
                import fakegpu

                fakegpu.activate()

            spec.loader.exec_module = load_and_activate
        return spec


sys.meta_path.insert(0, _TorchFinder())
