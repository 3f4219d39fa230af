"""The learning rate of each step as a share of the optimizer's: a pure function, so a resumed run needs no state.

Steps count from 0. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema

from ..config import StrictModel
from .durations import TEXT_SCHEMA, Duration, check_duration, length, steps

_TYPE = "the kind of schedule"
_MAX_EPOCHS = 100_000
_PERIOD_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": _MAX_EPOCHS},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        TEXT_SCHEMA,
    ]
}


def _period(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_EPOCHS:
        return value
    if isinstance(value, float) and value >= 1:
        raise ValueError(f"expected whole epochs from 1 to {_MAX_EPOCHS:,} (6), or with a unit ('2.4ep', '500steps')")
    return check_duration(value)


Period: TypeAlias = Annotated[int | float | str, BeforeValidator(_period), WithJsonSchema(_PERIOD_SCHEMA)]
"""A Duration, or a whole number of epochs."""

Share = Annotated[float, Field(ge=0, le=1)]


class _Warmed(StrictModel):
    """A schedule that the learning rate may first climb to, in a straight line."""

    warmup: Duration | None = Field(
        None, description="how long the learning rate climbs before the schedule sets it; none if left out"
    )
    warmup_factor: Share = Field(
        0.0, description="where the climb starts, one step before the first, as a share of lr: the first step has more"
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """A start of the climb where there is none."""
        if "warmup_factor" in self.model_fields_set and self.warmup is None:
            yield "warmup_factor", "has no effect without warmup; leave it out, or give warmup"


class ConstantSchedule(_Warmed):
    """The whole learning rate at every step."""

    type: Literal["constant"] = Field(description=_TYPE)


class StepSchedule(_Warmed):
    """`gamma ** floor(step / step_size)`; with whole epochs as `torch.optim.lr_scheduler.StepLR`, by epoch."""

    type: Literal["step"] = Field(description=_TYPE)
    step_size: Period = Field(description="from one drop to the next: whole epochs (6), or a duration (2.4ep)")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each drop")


class ExponentialSchedule(_Warmed):
    """`gamma ** (step / every)`, the exponent rounded down if staircase (EfficientNet: 0.97 every 2.4 epochs)."""

    type: Literal["exponential"] = Field(description=_TYPE)
    gamma: float = Field(0.97, gt=0, le=1, description="factor of each period")
    every: Duration = Field("2.4ep", description="the period")
    staircase: bool = Field(True, description="drop at the end of each period, instead of a little at each step")


class CosineSchedule(_Warmed):
    """`final + (1 - final) * (1 + cos(pi * t)) / 2`, t from 0 after the warm-up to 1 at the end (Loshchilov 2017)."""

    type: Literal["cosine"] = Field(description=_TYPE)
    final: Share = Field(0.0, description="learning rate after the last step, as a share of lr")


class LinearSchedule(_Warmed):
    """`1 - (1 - final) * t`, t from 0 after the warm-up to 1 at the end."""

    type: Literal["linear"] = Field(description=_TYPE)
    final: Share = Field(0.0, description="learning rate after the last step, as a share of lr")


class TriangularSchedule(StrictModel):
    """A straight line up to the whole learning rate, and one down to the end; its climb is its warm-up (airbench)."""

    type: Literal["triangular"] = Field(description=_TYPE)
    start: Share = Field(
        0.0, description="where the climb starts, one step before the first, as a share of lr: the first step has more"
    )
    peak_at: Duration = Field(0.2, description="how long the climb lasts")
    final: Share = Field(0.0, description="learning rate after the last step, as a share of lr")


AnySchedule: TypeAlias = (
    ConstantSchedule | StepSchedule | ExponentialSchedule | CosineSchedule | LinearSchedule | TriangularSchedule
)
Schedule = Annotated[AnySchedule, Field(discriminator="type")]


def factor(schedule: AnySchedule, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
    """The learning rate of a step, as a share of the optimizer's.

    For the step and exponential schedules, periods count from the first step of the run also where there is a warm-up,
    as in the EfficientNet authors' code; the others start where the warm-up ends, and end with the run.
    """
    climb, start = _climb(schedule, steps_per_epoch, total_steps)
    if step < climb:
        return start + (1 - start) * (step + 1) / (climb + 1)
    match schedule:
        case StepSchedule(step_size=period) | ExponentialSchedule(every=period):
            duration = f"{period}ep" if isinstance(period, int) else period
            periods = step / length(duration, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
            return _decayed(schedule, periods)
        case CosineSchedule(final=final):
            return final + (1 - final) * (1 + math.cos(math.pi * _progress(step - climb, total_steps - climb))) / 2
        case LinearSchedule(final=final) | TriangularSchedule(final=final):
            return 1 - (1 - final) * _progress(step - climb, total_steps - climb)
    return 1.0


def endless_climb(schedule: AnySchedule, epochs: int) -> Iterator[tuple[str, str]]:
    """The field that says how long the learning rate climbs, and why not, if that is longer than the run.

    Epochs compare with epochs, and a share is never too long; how many steps the run has, only the data tell, so that a
    climb in steps is never refused here.
    """
    name = "peak_at" if isinstance(schedule, TriangularSchedule) else "warmup"
    climb = getattr(schedule, name)
    if isinstance(climb, str) and climb.endswith("ep") and length(climb, steps_per_epoch=1, total_steps=0) > epochs:
        yield name, f"longer than the run of {epochs} epochs, which would end before lr is reached"


def _climb(schedule: AnySchedule, steps_per_epoch: int, total_steps: int) -> tuple[int, float]:
    """How many steps lie before the whole learning rate, and where the climb to it starts."""
    if isinstance(schedule, TriangularSchedule):
        return steps(schedule.peak_at, steps_per_epoch=steps_per_epoch, total_steps=total_steps), schedule.start
    if schedule.warmup is None:
        return 0, 0.0
    return steps(schedule.warmup, steps_per_epoch=steps_per_epoch, total_steps=total_steps), schedule.warmup_factor


def _decayed(schedule: StepSchedule | ExponentialSchedule, periods: Fraction) -> float:
    # Fractions, because as floats 11 / (1.1 * 10) is below 1, and the drop would come a step late.
    whole = isinstance(schedule, StepSchedule) or schedule.staircase
    return float(schedule.gamma ** (math.floor(periods) if whole else float(periods)))


def _progress(step: int, span: int) -> float:
    return min(1.0, step / span) if span > 0 else 1.0
