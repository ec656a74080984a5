"""Immutable graphs of primitives: formulas, canonical form, digest, fingerprint, gradients, analysis, cost.

Nothing in here imports torch.
"""

from evonas.graph.analysis import Properties, analyse
from evonas.graph.assembly import Assembly, Part
from evonas.graph.autodiff import differentiate
from evonas.graph.canonical import Interner, canonical, digest
from evonas.graph.causality import Leak, find_leak
from evonas.graph.cost import Cost, cost, resolve_groups
from evonas.graph.fingerprint import Fingerprint, FingerprintIndex, fingerprint, same_function
from evonas.graph.formula import format_formula, parse_formula
from evonas.graph.graph import Graph, GraphBuilder, Node
from evonas.graph.interop import to_networkx
from evonas.graph.latex import format_latex
from evonas.graph.layout import BTC, LAYOUTS, NCHW, Layout, get_layout

__all__ = [
    "BTC",
    "LAYOUTS",
    "NCHW",
    "Assembly",
    "Cost",
    "Fingerprint",
    "FingerprintIndex",
    "Graph",
    "GraphBuilder",
    "Interner",
    "Layout",
    "Leak",
    "Node",
    "Part",
    "Properties",
    "analyse",
    "canonical",
    "cost",
    "differentiate",
    "digest",
    "find_leak",
    "fingerprint",
    "format_formula",
    "format_latex",
    "get_layout",
    "parse_formula",
    "resolve_groups",
    "same_function",
    "to_networkx",
]
