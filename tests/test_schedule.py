"""Durations and schedules: what is refused and how, closed forms, and torch's schedulers step by step."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from editors import nodes
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from pydantic import Field
from torch.optim import lr_scheduler
from writing import WriteYaml

from effnet_builder import ConfigError
from effnet_builder.config import StrictModel, load, load_document, validate
from effnet_builder.config.json_schema import document_schema
from effnet_builder.train import schedule as module
from effnet_builder.train.durations import Duration, length, nearest_duration, steps
from effnet_builder.train.optim_settings import SGD, Clip, Ema, Optimizer
from effnet_builder.train.schedule import (
    AnySchedule,
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    Schedule,
    StepSchedule,
    TriangularSchedule,
    factor,
)


class Lasting(StrictModel):
    """Something that lasts."""

    it: Duration = Field(description="how long it lasts")


class Training(StrictModel):
    """A recipe in small."""

    schedule: Schedule = Field(StepSchedule(type="step", step_size=6), description="the learning rate of each step")
    optimizer: Optimizer = Field(SGD(type="sgd", lr=0.1), description="how gradients change the weights")
    clip: Clip | None = Field(None, description="a bound on the gradients")
    ema: Ema | None = Field(None, description="the average of the weights")


RUN = {"steps_per_epoch": 10, "total_steps": 50}
SCHEMA = document_schema(Lasting)
VALIDATOR = Draft7Validator(SCHEMA)


def lasting(value: object) -> str:
    """The message of a refusal, or nothing."""
    try:
        Lasting.model_validate({"it": value})
    except ValueError as error:
        message: str = error.errors()[0]["msg"]  # type: ignore[attr-defined]
        assert len(error.errors()) == 1  # type: ignore[attr-defined]
        return message.removeprefix("Value error, ")
    return ""


def factors(schedule: AnySchedule, count: int = 50, **run: int) -> list[float]:
    return [factor(schedule, step, **{**RUN, **run}) for step in range(count)]


@pytest.mark.parametrize(
    ("written", "exact"),
    [("5ep", 50), ("2.4ep", 24), ("0.3ep", 3), ("0.25ep", Fraction(5, 2)), ("500steps", 500), ("1steps", 1),
     (0.2, 10), (1, 50), (1.0, 50), (0.01, Fraction(1, 2)), ("0.000001ep", Fraction(1, 100_000))],
)  # fmt: skip
def test_a_duration_means_what_it_says(written: float | str, exact: Fraction) -> None:
    model = Lasting(it=written)
    assert model.it == written
    assert Lasting.model_validate_json(model.model_dump_json()) == model
    assert length(model.it, **RUN) == exact
    # To the nearest step, halves up, and at least one.
    assert steps(model.it, **RUN) == max(1, math.floor(exact + Fraction(1, 2)))


@pytest.mark.parametrize(
    ("written", "close"),
    [("5 epochs", "'5ep'"), ("5e", "'5ep'"), ("5 EP", "'5ep'"), (".5ep", "'0.5ep'"), (5, "'5ep'"), (2.4, "'2.4ep'"),
     ("5", "'5ep'"), ("0.2", "0.2"), ("20%", "0.2"), ("20 %", "0.2"), ("500 step", "'500steps'"), ("500it", None),
     ("500 iters", "'500steps'"), ("2.5steps", None), ("-1ep", None), (-1, None), (0, None), ("0ep", None),
     ("0.0ep", None), ("00steps", None), ("0steps", None), (True, None), ("", None), ("ep", None), ([5], None),
     ("5ep\n", "'5ep'"), ("٥ep", "'5ep'"), (10**400, None), ("1e3steps", None), ("1000000000ep", None), (float("nan"), None),
     (float("inf"), None), ("5ep 3steps", None), (None, None)],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_the_nearest_one(written: object, close: str | None) -> None:
    allowed = (
        "expected a duration above 0: epochs ('5ep'), whole steps ('500steps') or a share of the run up to 1 (0.2)"
    )
    assert lasting(written) == allowed + (f"; did you mean {close}?" if close else "")


@given(st.one_of(st.text(max_size=25), st.from_regex(r"[0-9.]{1,8} ?[a-z%]{0,6}"), st.floats(), st.integers()))
@example("5ep\n")
def test_any_value_is_refused_or_means_what_it_says(value: object) -> None:
    message = lasting(value)
    if (isinstance(value, str) and "\n" in value) or (isinstance(value, float) and not math.isfinite(value)):
        assert message  # the schema knows no line ends, and JSON no such numbers
    else:
        assert VALIDATOR.is_valid({"it": value}) is not bool(message)
    if message:
        close = nearest_duration(value)
        assert close is None or not lasting(close.strip("'") if "'" in close else float(close))
        return
    assert steps(value, **RUN) >= 1  # type: ignore[arg-type]
    number = float(value.removesuffix("ep").removesuffix("steps")) if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    unit = 50 if not isinstance(value, str) else 10 if value.endswith("ep") else 1
    assert float(length(value, **RUN)) == pytest.approx(number * unit)  # type: ignore[arg-type]


def test_constant() -> None:
    assert factors(ConstantSchedule(type="constant")) == [1.0] * 50


@pytest.mark.parametrize("size", [2, "2ep", "20steps", 0.4])
def test_step_is_torchs_by_epoch_and_bit_for_bit_todays(size: int | float | str) -> None:
    schedule = StepSchedule(type="step", step_size=size, gamma=0.3)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    scheduler = lr_scheduler.StepLR(optimizer, 2, 0.3)
    for epoch in range(5):
        for step in range(10 * epoch, 10 * epoch + 10):
            assert 0.05 * factor(schedule, step, **RUN) == float(0.05 * 0.3 ** (epoch // 2))
            assert 0.05 * factor(schedule, step, **RUN) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-14)
        optimizer.step()
        scheduler.step()


def test_step_sizes_are_whole_epochs_or_durations() -> None:
    one_epoch = StepSchedule(type="step", step_size=1)
    assert factors(one_epoch)[9:11] == [1.0, 0.1]
    for wrong in (0, -1, 100_001, True, 6.0, 1.0, "6", "0ep", None):
        with pytest.raises(ValueError, match="expected"):
            StepSchedule(type="step", step_size=wrong)


def test_exponential_drops_exactly_where_it_is_written() -> None:
    schedule = ExponentialSchedule(type="exponential")
    expected = [0.97 ** (step // 24) for step in range(100)]
    assert factors(schedule, 100) == expected
    # 1.1 * 10 is above 11 as a float, which would drop one step late.
    drops = factors(ExponentialSchedule(type="exponential", every="1.1ep", gamma=0.5), 23)
    assert (drops[10], drops[11], drops[21], drops[22]) == (1.0, 0.5, 0.5, 0.25)
    # Periods are not rounded to steps: 2.4 epochs of 1251 steps are 3002.4, and the fifth ends after 15012.
    long = {"steps_per_epoch": 1251, "total_steps": 437_850}
    assert factor(schedule, 15_011, **long) == 0.97**4
    assert factor(schedule, 15_012, **long) == 0.97**5
    smooth = ExponentialSchedule(type="exponential", every="1ep", gamma=0.5, staircase=False)
    assert factors(smooth) == pytest.approx([0.5 ** (step / 10) for step in range(50)])


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_torchs(final: float) -> None:
    assert factors(CosineSchedule(type="cosine", final=final)) == pytest.approx(
        torchs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=final)), abs=1e-12
    )


@pytest.mark.parametrize("start", [0.0, 0.1])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_warm_up_and_cosine_are_torchs_in_sequence(start: float, final: float) -> None:
    schedule = CosineSchedule(type="cosine", final=final, warmup="1ep", warmup_factor=start)
    first = start + (1 - start) / 11  # one of the 11 equal parts from the start to the whole
    found = factors(schedule)
    assert found[0] == pytest.approx(first)
    assert found == pytest.approx(
        torchs(
            lambda optimizer: lr_scheduler.SequentialLR(
                optimizer,
                [
                    lr_scheduler.LinearLR(optimizer, first, total_iters=10),
                    lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=final),
                ],
                [10],
            )
        ),
        abs=1e-12,
    )


def test_linear_is_torchs() -> None:
    assert factors(LinearSchedule(type="linear", final=0.2)) == pytest.approx(
        torchs(lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.2, total_iters=50)), abs=1e-12
    )
    assert factors(LinearSchedule(type="linear", warmup=0.2))[-1] == pytest.approx(1 / 40)


def test_triangular() -> None:
    found = factors(TriangularSchedule(type="triangular", start=0.2, final=0.1))
    assert found[:11] == pytest.approx([0.2 + 0.8 * (step + 1) / 11 for step in range(11)])
    assert found[10] == 1.0
    assert found[10:] == pytest.approx([1 - 0.9 * step / 40 for step in range(40)])


def test_warm_up_ends_at_what_the_schedule_says_then() -> None:
    schedule = ExponentialSchedule(type="exponential", every="1ep", gamma=0.5, warmup="2ep")
    found = factors(schedule)
    assert found[:20] == pytest.approx([(step + 1) / 21 for step in range(20)])
    assert (found[20], found[30]) == (0.25, 0.125)
    assert factors(StepSchedule(type="step", step_size=3, warmup="1steps"))[:2] == [0.5, 1.0]


SCHEDULES = [
    ConstantSchedule(type="constant", warmup="0.5ep"),
    StepSchedule(type="step", step_size="7steps", warmup=0.1),
    ExponentialSchedule(type="exponential", warmup="3steps", warmup_factor=0.5),
    ExponentialSchedule(type="exponential", staircase=False),
    CosineSchedule(type="cosine", warmup="5ep"),
    LinearSchedule(type="linear", warmup="500steps"),
    TriangularSchedule(type="triangular"),
    TriangularSchedule(type="triangular", peak_at="100ep", start=1.0),
]


@given(st.sampled_from(SCHEDULES), st.integers(0, 400), st.integers(1, 30), st.integers(1, 10))
def test_no_step_of_any_run_is_at_zero_or_above_the_whole(
    schedule: AnySchedule, step: int, steps_per_epoch: int, epochs: int
) -> None:
    total = steps_per_epoch * epochs
    found = factor(schedule, step, steps_per_epoch=steps_per_epoch, total_steps=total)
    assert 0 <= found <= 1
    assert found > 0 or step >= total  # a step at zero would change nothing but the statistics of the norms


def test_documents(write_yaml: WriteYaml) -> None:
    text = (
        "schedule: {type: exponential, gamma: 0.97, every: 2.4ep, warmup: 5ep}\n"
        "optimizer: {type: rmsprop, lr: 0.016, lr_batch_size: 256, weight_decay: 1e-5}\n"
        "clip: {max_norm: 1}\nema: {horizon: 0.1}\n"
    )
    training = load(Training, write_yaml(text), "recipes", None)
    assert training.schedule == ExponentialSchedule(type="exponential", warmup="5ep")
    assert training.ema == Ema(horizon=0.1)
    again = load(Training, write_yaml(training.to_yaml(), "again.yaml"), "recipes", {"ema.horizon": "5ep"})
    assert again.ema == Ema(horizon="5ep")
    assert training.vary({"schedule": {"type": "step", "step_size": 6}}).schedule.step_size == 6  # type: ignore[union-attr]
    plain = load(Training, write_yaml("optimizer: {type: adamw, lr: 0.001, betas: [0.9, 0.99]}\n"), "recipes", None)
    assert plain.optimizer.betas == (0.9, 0.99)  # type: ignore[union-attr]


MISTAKES = [
    ("ema: {horizon: 5 epochs}", "ema.horizon = 5 epochs: expected a duration above 0: epochs ('5ep'), whole steps "
     "('500steps') or a share of the run up to 1 (0.2); did you mean '5ep'?"),
    ("schedule: {type: step, step_size: 6.0}", "schedule.step_size = 6.0: expected whole epochs from 1 to 100,000 (6), "
     "or with a unit ('2.4ep', '500steps')"),
    ("schedule: {type: step}", "schedule.step_size: missing; expected a whole number from 1 to 100,000 or a number "
     "above 0 below 1 or epochs or steps such as 2.4ep or 500steps, in a text of at most 20 characters ("),
    ("schedule: {type: cosin}", "schedule.type = cosin: expected 'constant', 'step', 'exponential', 'cosine', 'linear' "
     "or 'triangular'; did you mean 'cosine'?"),
    ("schedule: {type: triangular, warmup: 1ep}", "schedule.warmup: unknown key; allowed are "),
    ("schedule: {type: linear, warmup_factor: 0.1}", "schedule.warmup_factor = 0.1: has no effect without warmup; "),
    ("optimizer: {type: sgd, lr: 1, momentum: 0, nesterov: true}", "optimizer.nesterov = true: nesterov needs a "
     "momentum above 0"),
    ("optimizer: {type: sgd, lr: 1, no_decay: [norms]}", "optimizer.no_decay[0] = norms: expected 'norm', 'bias' or "
     "'depthwise'; did you mean 'norm'?"),
    ("optimizer: {type: sgd, lr: 1, no_decay: [norm, norm]}", "optimizer.no_decay = a list: names a kind twice"),
    ("optimizer: {type: sgd, lr: 1, no_decay: norm}", "optimizer.no_decay = norm: expected a list of 0 to 3 items"),
    ("optimizer: {type: adamw, lr: 1, betas: ['0.9', 0.9]}", "optimizer.betas[0] = 0.9: expected a number from 0 below "
     "1; write it without quotes"),
    ("clip: {}", "clip.max_norm: missing; expected a number above 0 to 1,000,000, or max_value"),
    ("clip: {max_norm: 1, max_value: 1}", "clip.max_value = 1: has no meaning beside max_norm; give one of the two"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes_are_located(text: str, message: str, write_yaml: WriteYaml) -> None:
    path = write_yaml(text + "\n")
    with pytest.raises(ConfigError) as error:
        validate(Training, load_document(path, "recipes"))
    (line,) = str(error.value).splitlines()
    assert line.partition(" ")[2].startswith(message)


def test_the_editors_schema_is_draft_7() -> None:
    schema = document_schema(Training)
    for one in (schema, SCHEMA):
        Draft7Validator.check_schema(one)
        for node in nodes(one):
            assert not node.keys() & {"$defs", "discriminator", "prefixItems"}
            for part in node.get("properties", {}).values():
                assert "description" in part or part.keys() & {"$ref", "anyOf", "allOf"}
    validator = Draft7Validator(schema)
    step = {"type": "step", "step_size": 6, "gamma": 0.1}
    assert validator.is_valid({"schedule": step, "ema": {"horizon": "5ep"}})
    assert not validator.is_valid({"schedule": step | {"step_size": 1.5}})
    assert not validator.is_valid({"schedule": step, "ema": {"horizon": "0ep"}})
    assert not validator.is_valid({"extends": "x", "schedule": {"warmup": 3}})
    assert validator.is_valid({"extends": "x", "schedule": {"warmup": None}, "optimizer": {"betas": {"1": 0.9}}})


def test_settings_need_no_torch() -> None:
    package = Path(inspect.getfile(module)).parent
    for name in ("durations", "schedule", "optim_settings"):
        text = (package / f"{name}.py").read_text()
        assert "import torch" not in text
        assert "from torch" not in text
    code = "from effnet_builder.train import schedule, optim_settings; import sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def torchs(make: object) -> list[float]:
    """The learning rates of 50 steps of one of torch's schedulers, of lr 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)  # type: ignore[operator]
    found = []
    for _ in range(50):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found
