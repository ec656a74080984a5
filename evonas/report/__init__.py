"""A run as a page: what was found, against what, how it came about, and what was not measured.

``write_report(run)`` makes one HTML file that opens from disk, or a Markdown file.
"""

from evonas.report.writing import FORMATS, write_report

__all__ = ["FORMATS", "write_report"]
