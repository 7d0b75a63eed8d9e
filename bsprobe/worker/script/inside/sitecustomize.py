"""Starts bsprobe's records in a Python process, then runs the `sitecustomize` that this one hides.

Python imports this module at its start because the folder is first on `PYTHONPATH`.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_awaited = None

if "BSPROBE_RECORDS" in os.environ:
    try:
        import _bsprobe_inside

        _awaited = _bsprobe_inside.start()
    except Exception:  # noqa: BLE001, S110 - an error of ours never disturbs the user's program
        pass

# Children find the folder by PYTHONPATH. The program's own imports have no use for it.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
# Python takes the module from sys.modules once this one has run: there it finds the hidden one. If
# there is none, Python ignores the ImportError, as it does for every program without one.
sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize  # noqa: F401 - another module of the same name
finally:
    if _awaited is not None:
        _awaited.come_first()
