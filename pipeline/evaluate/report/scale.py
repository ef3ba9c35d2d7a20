"""Where numbers stand along an axis, and which of them are written there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluate.report.document import Axis

_NEVER_CLOSER = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruler:
    """An axis with its ends in numbers and in units of the drawing; ``last`` may lie before ``first``."""

    axis: Axis
    low: float
    high: float
    first: float
    last: float

    @classmethod
    def over(cls, axis: Axis, numbers: Sequence[float], first: float, last: float) -> "Ruler":
        """From the smallest to the largest of ``numbers``, or round numbers near them; never of length 0."""
        low = min(numbers) if axis.low is None else axis.low
        high = max(numbers) if axis.high is None else axis.high
        if axis.scale == "log":
            low, high = (low, high) if high > low * (1 + 1e-9) else (low / 2, high * 2)
            return cls(axis=axis, low=low, high=high, first=first, last=last)
        if high - low < _NEVER_CLOSER * max(1.0, abs(high)):
            low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
        step = _round_step((high - low) / 5)
        low = math.floor(low / step + 1e-9) * step if axis.low is None else axis.low
        high = math.ceil(high / step - 1e-9) * step if axis.high is None else axis.high
        return cls(axis=axis, low=low, high=high, first=first, last=last)

    def place(self, number: float) -> float:
        """Units of the drawing; what lies beyond an end stands at the end."""
        at = min(max(number, self.low), self.high)
        if self.axis.scale == "log":
            share = math.log(at / self.low) / math.log(self.high / self.low)
        else:
            share = (at - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)

    def ticks(self, closest: float) -> list[float]:
        """Round numbers along the axis, at least ``closest`` units apart, the largest one first kept."""
        numbers = self._decades() if self.axis.scale == "log" else self._steps()
        kept: list[float] = []
        for number in reversed(numbers):
            if not kept or abs(self.place(kept[0]) - self.place(number)) >= closest:
                kept.insert(0, number)
        return kept

    def text(self, number: float) -> str:
        """A number as it is written along the axis."""
        if self.axis.as_percent:
            return f"{100 * number:.6g}\u00a0%"
        if abs(number) >= 1000:
            return f"{number:,.0f}"
        small = abs(number) < 1e-3 and number != 0
        return f"{number:.0e}".replace("e-0", "e-") if small else f"{number:.4g}"

    def _steps(self) -> list[float]:
        step = _round_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) for n in range(first, last + 1)]

    def _decades(self) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1,) if self.high >= 999 * self.low else (1, 2, 5)
        numbers = [float(f"{factor}e{power}") for power in range(first, last + 1) for factor in factors]
        inside = [n for n in numbers if self.low * (1 - 1e-9) <= n <= self.high * (1 + 1e-9)]
        return inside or [self.low, self.high]


def _round_step(step: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
