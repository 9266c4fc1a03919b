"""medusa-bench: does parallel decoding pay on this GPU, for this model and workload?

`import medusa_bench as mb` gives mb.load, mb.predict, mb.compare and mb.roofline, of
medusa_bench.api, which is imported when one of them is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"


class _Public:
    """An attribute that is always the API's. Of `compare` and `predict` there is a package too,
    and importing that would put it into its place: setting is ignored."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, module: object, owner: type) -> Any:
        return getattr(import_module("medusa_bench.api"), self._name)

    def __set__(self, module: object, value: object) -> None:
        pass


class _Module(ModuleType):
    MedusaBenchError = _Public()
    Results = _Public()
    compare = _Public()
    load = _Public()
    predict = _Public()
    roofline = _Public()


sys.modules[__name__].__class__ = _Module
