"""Scores as people read them: the log's shares of saved bits as bits per byte, accuracies as they are."""

from __future__ import annotations

from collections.abc import Iterable

from evonas.errors import EvonasError
from evonas.run.wording import score, spread

#: Bits of a byte: a language model's score is 1 - bits per byte / 8.
_BYTE = 8.0


class Units:
    """How the scores of some proxies are shown.

    Args:
        proxies: names; one of a plug-in that is not loaded counts as one whose scores are accuracies.
    """

    def __init__(self, proxies: Iterable[str]) -> None:
        from evonas.proxies.registry import kind

        self._text = set()
        for name in proxies:
            try:
                if kind(name) == "text":
                    self._text.add(name)
            except EvonasError:
                continue

    def width(self, proxy: str, std: float | None) -> float | None:
        """A standard deviation of scores in their unit."""
        return _BYTE * std if std is not None and proxy in self._text else std

    def column(self, proxy: str) -> str:
        """The head of a column."""
        return f"{proxy} bits/byte" if proxy in self._text else proxy

    def value(self, proxy: str, value: float | None) -> str:
        """One score."""
        return score(None if value is None else self.number(proxy, value))

    def spread(self, proxy: str, mean: float | None, std: float | None) -> str:
        """mean ± std of scores."""
        return spread(None if mean is None else self.number(proxy, mean), self.width(proxy, std))

    def change(self, proxy: str, value: float | None) -> float | None:
        """A difference of scores in the unit of the column: of bits per byte where those are shown."""
        return -_BYTE * value if value is not None and proxy in self._text else value

    def number(self, proxy: str, value: float) -> float:
        """One score as a number in the unit of the column."""
        return _BYTE * (1 - value) if proxy in self._text else value

    def lower_is_better(self, proxy: str) -> bool:
        """Whether the column is of bits per byte."""
        return proxy in self._text

    @property
    def note(self) -> str:
        """What has to be said beside a table; empty where all scores are accuracies."""
        if not self._text:
            return ""
        words = "accuracies for images, 1 - bits per byte / 8 for text"
        return f"Bits per byte: lower is better. Means are of scores: {words}."
