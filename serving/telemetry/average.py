"""The one smoothed average of the gateway: how long something takes lately."""

from __future__ import annotations


class ExponentialAverage:
    """An exponentially smoothed average: `value` moves to each measurement by `weight` of the distance.

    Without an initial value the first measurement becomes the value; until then `value` is 0.
    """

    def __init__(self, weight: float, initial: float | None = None) -> None:
        self.value = initial or 0.0
        self._weight = weight
        self._empty = initial is None

    def add(self, measured: float) -> None:
        """Takes a measurement in."""
        if self._empty:
            self.value, self._empty = measured, False
        else:
            self.value += self._weight * (measured - self.value)

    def shrink(self, factor: float) -> None:
        """Multiplies the value by a factor below 1, to forget a slow measurement while no new one can be made."""
        self.value *= factor
