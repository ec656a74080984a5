"""Where candidates are evaluated: in this process, in child processes, on the nodes of a Ray cluster.

All three own *evaluation slots* and share one interface, ``Backend``.
"""

from evonas.run.backends.base import KINDS, Backend, make_backend

__all__ = ["KINDS", "Backend", "make_backend"]
