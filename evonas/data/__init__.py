"""Images and text for the proxies: a fixed train / validation / held-out split, nothing downloaded.

``load`` returns a ``Dataset``, or a ``TextData``; their ``search_view()`` is what candidates are trained and scored
with, and it has no held-out part. ``@dataset("name")`` and the entry-point group ``evonas.datasets``
add data of your own.
"""

from evonas.data.registry import DEFAULT, DEFAULT_TEXT, DEFAULTS, dataset, load, names
from evonas.data.text import RawText, TextData, TextSplit, TextView
from evonas.data.types import Dataset, RawData, SearchView, Split

__all__ = [
    "DEFAULT",
    "DEFAULTS",
    "DEFAULT_TEXT",
    "Dataset",
    "RawData",
    "RawText",
    "SearchView",
    "Split",
    "TextData",
    "TextSplit",
    "TextView",
    "dataset",
    "load",
    "names",
]
