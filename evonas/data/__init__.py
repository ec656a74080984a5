"""Image data for the proxies: a fixed train / validation / held-out split, nothing downloaded.

``load`` returns a ``Dataset``; ``Dataset.search_view()`` is what candidates are trained and scored
with, and it has no held-out part. ``@dataset("name")`` and the entry-point group ``evonas.datasets``
add data of your own.
"""

from evonas.data.registry import DEFAULT, dataset, load, names
from evonas.data.types import Dataset, RawData, SearchView, Split

__all__ = ["DEFAULT", "Dataset", "RawData", "SearchView", "Split", "dataset", "load", "names"]
