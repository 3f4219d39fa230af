"""The training loop against loops written out by hand, and against what must not change anything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from training import (
    CLASSES,
    CPU,
    OPTIMIZERS,
    PLAIN,
    AtEachStep,
    Faulty,
    Kept,
    Told,
    begin,
    differences,
    deep,
    frozen_copy,
    linear,
    normed,
    pictures,
    tiny_recipe,
)

from effnet_builder.train.augment_settings import Mix
from effnet_builder.train.batches import epoch_batches, micro_batches, shares, smallest_share, steps_per_epoch
from effnet_builder.train.checkpoint import Checkpoint
from effnet_builder.train.distill import Teacher
from effnet_builder.train.draws import Draws, random_seed
from effnet_builder.train.engine import Diverged, Job, finished, fit
from effnet_builder.train.images import in_memory
from effnet_builder.train.loading import Loader
from effnet_builder.train.loggers import EpochMetrics
from effnet_builder.train.metrics import measure
from effnet_builder.train.predictions import Predictions, predict
from effnet_builder.train.recipe import Normalize
from effnet_builder.train.stages import Stage, evaluation, stage_of
from effnet_builder.train.state import State
from effnet_builder.train.stopping import StopRequest


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small only wait for a second one
    yield
    torch.set_num_threads(threads)


def train(state: State, job: Job, saver: Kept | None = None) -> list[EpochMetrics]:
    fit(state, job, saver, StopRequest())
    return state.history


def as_floats(images: Tensor) -> Tensor:
    return images.float() / 255


# Written out


def test_fit_is_torchs_sgd_on_the_same_batches() -> None:
    """With torch's own optimizer and scheduler, on a module that is no Network."""
    recipe = tiny_recipe(**{"schedule.step_size": 1, "optimizer.nesterov": False})
    data, ours, theirs = pictures(), linear(), linear()
    history = train(*begin(ours, recipe, data))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    for epoch in range(2):
        total, right = 0.0, 0
        for index in epoch_batches(recipe.seed, epoch, 18, 4):
            logits, labels = theirs(as_floats(data.read(index))), data.labels[index]
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            right += int((logits.argmax(1) == labels).sum())
        scheduler.step()
        assert history[epoch].train_loss == pytest.approx(total / 16)
        assert history[epoch].train_accuracy == right / 16
        assert history[epoch].lr == pytest.approx([0.05, 0.005][epoch])
        assert history[epoch].step == 4 * (epoch + 1)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    logits = theirs(as_floats(data.read()))
    assert history[-1].valid_loss == pytest.approx(F.cross_entropy(logits, data.labels).item(), rel=1e-5)
    assert history[-1].valid_accuracy == int((logits.argmax(1) == data.labels).sum()) / 18


def test_clip_smoothing_decay_and_average_in_the_loop() -> None:
    """Written out once more, with what a recipe may add to the loop."""
    recipe = tiny_recipe(
        optimizer={"type": "adamw", "lr": 0.01, "weight_decay": 0.1, "no_decay": ["bias"]},
        schedule={"type": "cosine", "warmup": "3steps"},
        clip={"max_norm": 0.5}, label_smoothing=0.2, ema={"horizon": "4steps"},
    )  # fmt: skip
    data, ours, theirs, told = pictures(), linear(), linear(), Told()
    state, job = begin(ours, recipe, data, loggers=[told], log_every=1)
    history = train(state, job)
    weights, biases = ([p for n, p in theirs.named_parameters() if n.endswith(kind)] for kind in ("weight", "bias"))
    groups = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
    average = [parameter.detach().clone() for parameter in theirs.parameters()]
    norms = []
    for step, index in enumerate([*epoch_batches(0, 0, 18, 4), *epoch_batches(0, 1, 18, 4)]):
        share = (step + 1) / 4 if step < 3 else (1 + math.cos(math.pi * (step - 3) / 5)) / 2
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * share
        optimizer.zero_grad()
        logits = theirs(as_floats(data.read(index)))
        F.cross_entropy(logits, data.labels[index], label_smoothing=0.2).backward()
        norms.append(float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)))
        optimizer.step()
        decay = min(1 - 1 / 4, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, theirs.parameters(), strict=True)]
    assert any(norm > 0.5 for norm in norms)
    assert [metrics.grad_norm for metrics in told.steps] == pytest.approx(norms, rel=1e-4)
    assert state.average is not None
    kept = state.average.module
    for a, b, mean, ema in zip(ours.parameters(), theirs.parameters(), average, kept.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ema, mean, rtol=1e-4, atol=1e-6)
    right = (kept(as_floats(data.read())).argmax(1) == data.labels).double().mean()
    assert history[-1].ema_accuracy == history[-1].kept_accuracy == pytest.approx(float(right))


def test_mixed_batches_have_mixed_targets() -> None:
    """Mixup and label smoothing, with the share that the seed of the step gives, image by image."""
    recipe = tiny_recipe(mix={"mixup": 1.0}, label_smoothing=0.1, epochs=1, batch_size=16,
                         **{"optimizer.momentum": 0.0, "optimizer.nesterov": False, "optimizer.weight_decay": 0.0})  # fmt: skip
    data, ours, theirs = pictures(16), linear(), linear()
    history = train(*begin(ours, recipe, data))
    [index] = epoch_batches(recipe.seed, 0, 16, 16)
    draws = Draws(random_seed(recipe.seed, "augment", 0), 16)
    assert draws.one() < 1  # whether this batch is mixed
    share = draws.beta(1.0, 1.0)
    x, labels = as_floats(data.read(index)), data.labels[index]
    loss = torch.zeros(())
    for i in range(16):
        logits = theirs((share * x[i] + (1 - share) * x[i - 1])[None])[0]
        target = torch.full((CLASSES,), 0.1 / CLASSES)
        target[labels[i]] += 0.9 * share
        target[labels[i - 1]] += 0.9 * (1 - share)
        loss = loss - (target * logits.log_softmax(0)).sum() / 16
    loss.backward()
    assert history[0].train_loss == pytest.approx(loss.item(), rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert b.grad is not None
        torch.testing.assert_close(a, b - 0.05 * b.grad, rtol=1e-4, atol=1e-6)


def test_a_teacher_in_the_loop() -> None:
    recipe = tiny_recipe(
        distill={"alpha": 0.3, "temperature": 2.0}, epochs=1, batch_size=18,
        optimizer=OPTIMIZERS["sgd-plain"] | {"lr": 0.5},
    )  # fmt: skip
    data, ours, theirs, teacher = pictures(), linear(), linear(), linear(seed=1)
    history = train(*begin(ours, recipe, data, teacher=Teacher(teacher, PLAIN, PLAIN)))
    [index] = epoch_batches(recipe.seed, 0, 18, 18)
    x = as_floats(data.read(index))
    logits, taught = theirs(x), teacher(x).detach()
    p, log_q = (taught / 2).softmax(1), (logits / 2).log_softmax(1)
    divergence = (p * (p.log() - log_q)).sum() / 18
    loss = 0.7 * F.cross_entropy(logits, data.labels[index]) + 0.3 * 4 * divergence
    loss.backward()
    assert history[0].train_loss == pytest.approx(loss.item(), rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert b.grad is not None
        torch.testing.assert_close(a, b - 0.5 * b.grad, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in teacher.parameters())


# Accumulation


def gradients_of(batch: int, accumulate: int) -> list[Tensor]:
    """As the loop leaves them after one step."""
    model = linear()
    train(*begin(model, tiny_recipe(batch_size=batch, epochs=1, accumulate=accumulate), pictures(batch)))
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@given(st.integers(2, 17).flatmap(lambda batch: st.tuples(st.just(batch), st.integers(1, batch))))
def test_parts_of_a_batch_have_the_gradient_of_the_batch(sizes: tuple[int, int]) -> None:
    batch, parts = sizes
    for whole, summed in zip(gradients_of(batch, 1), gradients_of(batch, parts), strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-4, atol=1e-6)


def test_uneven_parts_are_not_averaged() -> None:
    """Parts of 2, 2 and 3 images: the mean of their means is another gradient, which the test above would notice."""
    data, model = pictures(7), linear()
    [index] = epoch_batches(0, 0, 7, 7)
    for part in shares(7, 3):
        loss = F.cross_entropy(model(as_floats(data.read(index[part]))), data.labels[index[part]])
        (loss / 3).backward()
    ours, theirs = gradients_of(7, 3), [parameter.grad for parameter in model.parameters()]
    assert not any(
        torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(ours, theirs, strict=True) if b is not None
    )


# Batches


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**5), count=st.integers(1, 200), size=st.integers(1, 250))
def test_batches_are_equally_large_and_follow_from_seed_and_epoch(seed: int, epoch: int, count: int, size: int) -> None:
    batches = epoch_batches(seed, epoch, count, size)
    assert len(batches) == steps_per_epoch(count, size)
    assert {len(batch) for batch in batches} == {min(size, count)}
    seen = torch.cat(batches).tolist()
    assert len(set(seen)) == len(seen) > count - size  # once each, and what is left over is less than a batch
    assert set(seen) <= set(range(count))
    torch.manual_seed(seed ^ epoch)  # what others draw changes nothing
    assert all(map(torch.equal, epoch_batches(seed, epoch, count, size), batches))


def test_each_epoch_has_an_order_of_its_own_and_leaves_out_other_images() -> None:
    orders = [torch.cat(epoch_batches(seed, epoch, 50, 16)).tolist() for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6
    assert len({frozenset(order) for order in orders}) == 6


@given(count=st.integers(1, 300), processes=st.integers(1, 9), accumulate=st.integers(1, 9))
def test_shares_and_parts_cover_each_row_once(count: int, processes: int, accumulate: int) -> None:
    rows = shares(count, processes)
    parts = [list(micro_batches(row, accumulate)) for row in rows]
    covered = [i for part in itertools.chain.from_iterable(parts) for i in range(part.start, part.stop)]
    assert covered == list(range(count))
    sizes = [row.stop - row.start for row in rows]
    assert max(sizes) - min(sizes) <= 1
    smallest = [part.stop - part.start for row in parts for part in row]
    assert min(smallest) == smallest_share(count, processes, accumulate)


# Evaluation


def test_every_image_counts_once_whatever_the_batch() -> None:
    data, model = pictures(7), normed().eval()
    recipe = tiny_recipe()
    logits = model(as_floats(data.read()))
    expected = F.cross_entropy(logits, data.labels, reduction="none")
    found = []
    for batch_size in (1, 3, 7, 100):
        how = replace(evaluation(recipe, 8, PLAIN), batch_size=batch_size)
        predictions = predict(model.train(), Loader(data, CPU), how)
        torch.testing.assert_close(predictions.losses, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(predictions.labels, data.labels)
        assert torch.equal(predictions.top, logits.topk(5).indices)
        torch.testing.assert_close(predictions.probabilities, logits.softmax(1).topk(5).values, rtol=1e-4, atol=1e-5)
        found.append(measure(predictions, CLASSES))
    for metrics in found:
        assert metrics.count == 7
        assert metrics.loss == pytest.approx(expected.mean().item(), rel=1e-5)
        assert metrics.top1 == int((logits.argmax(1) == data.labels).sum()) / 7


def test_validation_changes_nothing() -> None:
    """Neither weights nor statistics, and no later step: the same run with more evaluation ends in the same bits."""
    states = []
    for looks in (0, 3):
        state, job = begin(normed(), tiny_recipe(ema={"horizon": 0.5}, epochs=3))

        def look(state: State = state, job: Job = job, looks: int = looks) -> None:
            before = frozen_copy(state)
            for _ in range(looks):
                predict(state.model, job.valid, job.evaluation)
                state.model.train()
            assert not differences(before, frozen_copy(state))

        train(state, replace(job, loggers=[AtEachStep(look)]))
        states.append(frozen_copy(state))
    assert not differences(*states)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_network_learns_one_batch_by_heart(name: str) -> None:
    recipe = tiny_recipe(
        dropout=0.0, epochs=60, batch_size=6, optimizer=OPTIMIZERS[name], schedule={"type": "constant"}
    )
    history = train(*begin(deep(), recipe, pictures(6)))
    assert history[0].train_accuracy < 0.7
    assert history[-1].valid_accuracy == 1
    assert history[-1].train_loss < 0.3 * history[0].train_loss


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_full_precision_and_not_equal(precision: str) -> None:
    found = []
    for kind in ("fp32", precision):
        model = normed()
        history = train(*begin(model, tiny_recipe(precision=kind, epochs=3)))
        assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
        found.append(history[-1].valid_loss)
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    ends = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(ends))  # what was drawn before is of no account
        state, job = begin(normed(), tiny_recipe(seed=seed, **{"augment.crop_padding": 2}))
        train(state, job)
        ends.append(frozen_copy(state))
    assert not differences(*ends[:2])
    assert "model.0.weight" in differences(*ends[1:])


# Steps whose loss or gradient is no number


def watched(forward: Faulty, fused: bool = False, **changes: Any) -> tuple[State, list[Checkpoint]]:
    """The state before the first step and after each, of a run of eight."""
    recipe = tiny_recipe(ema={"horizon": "3steps"}, **changes)
    state, job = begin(forward.model, recipe, forward=forward, fused=fused)
    seen = [frozen_copy(state)]
    fit(state, replace(job, loggers=[AtEachStep(lambda: seen.append(frozen_copy(state)))]), None, StopRequest())
    return state, seen


@pytest.mark.parametrize("of", ["loss", "gradient"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_step_changes_nothing_and_is_counted(name: str, of: str) -> None:
    bad = [0, 3, 4, 7]
    state, seen = watched(Faulty(normed(), bad, of=of), optimizer=OPTIMIZERS[name])
    for step, (before, after) in enumerate(itertools.pairwise(seen)):
        changed = set(differences(before, after)) - {"step", "history"}
        if step in bad:
            assert changed == {"counters"}, step
        else:
            assert {"model.0.weight", "model.1.running_mean", "ema.0.weight"} <= changed, step
    assert state.counters.skipped.tolist() == [4, 0 if 7 not in bad else 1, 2]
    assert [metrics.skipped for metrics in state.history] == [2, 4]
    assert all(math.isfinite(metrics.train_loss) for metrics in state.history)


def test_a_bad_part_makes_the_whole_step_bad() -> None:
    _, seen = watched(Faulty(normed(), [1]), accumulate=2)
    assert set(differences(seen[0], seen[1])) - {"step"} == {"counters"}
    assert "model.0.weight" in differences(seen[1], seen[2])


def test_bad_steps_do_not_count_in_the_loss() -> None:
    model = linear()
    history = train(
        *begin(model, tiny_recipe(epochs=1, optimizer={"type": "sgd", "lr": 1e-9}), forward=Faulty(model, [1]))
    )
    data, batches = pictures(), epoch_batches(0, 0, 18, 4)
    losses = [F.cross_entropy(linear()(as_floats(data.read(i))), data.labels[i]).item() for i in batches]
    assert history[0].train_loss == pytest.approx((losses[0] + losses[2] + losses[3]) / 3, rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "sgd-plain", "adamw"])
def test_fused_optimizers_skip_without_the_host_looking(name: str) -> None:
    """torch's fused kernels exist on the CPU too; told by `found_inf`, they do what skipping the call does."""
    bad = [0, 3, 4]
    ends = []
    for told in (True, False):
        forward = Faulty(normed(), bad)
        recipe = tiny_recipe(ema={"horizon": "3steps"}, optimizer=OPTIMIZERS[name])
        state, job = begin(forward.model, recipe, forward=forward, fused=True)
        assert state.optimizer._step_supports_amp_scaling
        state.optimizer._step_supports_amp_scaling = told
        seen = [frozen_copy(state)]
        fit(
            state,
            replace(job, loggers=[AtEachStep(lambda s=state, found=seen: found.append(frozen_copy(s)))]),
            None,
            StopRequest(),
        )
        for step in bad[1:]:
            assert set(differences(seen[step], seen[step + 1])) - {"step", "history"} == {"counters"}
        assert all(tensor.isfinite().all() for tensor in seen[-1].tensors.values())
        ends.append(seen[-1])
    near = [name for name in differences(*ends) if name.startswith("ema.")]  # added up in another order
    for name in near:
        torch.testing.assert_close(ends[0].tensors[name], ends[1].tensors[name], rtol=1e-5, atol=1e-6)
    assert set(differences(*ends)) - {*near, "history"} == set()


def test_a_fault_that_passes_is_made_up_for() -> None:
    """So many bad steps in a row that the run goes back, once; it then ends as if nothing had happened."""
    recipe = tiny_recipe(epochs=3, skip_limit=3, ema={"horizon": 0.5})
    model, told, saver = normed(), Told(), Kept()
    faulty = Faulty(model, [5, 6, 7])  # the last three steps of the second epoch
    state, job = begin(model, recipe, forward=faulty, loggers=[told])
    train(state, job, saver)
    undisturbed, other = begin(normed(), recipe)
    train(undisturbed, other)
    assert state.went_back
    assert told.back == [0, 4]
    assert faulty.call + 1 == 12 + 4
    assert differences(frozen_copy(state), frozen_copy(undisturbed)) == ["went_back"]


def test_a_fault_that_stays_ends_the_run() -> None:
    model, told, saver = normed(), Told(), Kept()
    state, job = begin(model, tiny_recipe(epochs=9, skip_limit=3), forward=Faulty(model, range(6, 99)), loggers=[told])
    with pytest.raises(
        Diverged, match=r"3 steps in a row, up to step 11, had .* number, again; try a lower lr than 0.05"
    ):
        train(state, job, saver)
    assert told.back == [0, 8]  # saved within the row of bad steps, of which it knows nothing any more
    assert saver.checkpoints[-1].facts["went_back"]  # so that a run that is resumed does not go back once more
    state.load(saver.checkpoints[-1])
    assert state.step == 8
    with pytest.raises(Diverged, match="again"):
        train(state, job, saver)


def test_without_checkpoints_there_is_nothing_to_go_back_to() -> None:
    model = normed()
    with pytest.raises(Diverged, match=r"2 steps in a row, up to step 2, had .* number; try"):
        train(*begin(model, tiny_recipe(skip_limit=2), forward=Faulty(model, range(9))))


def test_bad_steps_apart_from_each_other_are_no_reason_to_go_back() -> None:
    model, saver = normed(), Kept()
    state, job = begin(model, tiny_recipe(skip_limit=2), forward=Faulty(model, [0, 2, 4, 6]))
    train(state, job, saver)
    assert not state.went_back
    assert state.history[-1].skipped == 4


def test_a_learning_rate_that_is_too_high() -> None:
    """No fault is injected here: the loss grows until float32 ends."""
    recipe = tiny_recipe(epochs=50, optimizer={"type": "sgd", "lr": 100.0, "momentum": 0.99}, skip_limit=5)
    data = in_memory(pictures().read(), pictures().labels)
    state, job = begin(linear(), recipe, data)
    job = replace(job, normalize=Normalize(mean=(0.0,) * 3, std=(1e-9,) * 3))
    with pytest.raises(Diverged, match="5 steps in a row"):
        train(state, job, Kept())
    assert all(tensor.isfinite().all() for tensor in frozen_copy(state).tensors.values())


# The end of a run


def epochs(*accuracies: float) -> list[EpochMetrics]:
    return [
        EpochMetrics(i, i, 8, 0.1, 1.0, 0.5, 1.0, accuracy, 1.0, None, None, None, 0, 1.0, 1.0, 0.0)
        for i, accuracy in enumerate(accuracies, 1)
    ]


@pytest.mark.parametrize(
    ("accuracies", "end"),
    [
        ([], False),
        ([0.5], False),
        ([0.5, 0.5], False),
        ([0.5, 0.5, 0.5], True),  # two epochs without a better one
        ([0.5, 0.4, 0.6], False),
        ([0.5, 0.4, 0.6, 0.6], False),
        ([0.5, 0.4, 0.6, 0.6, 0.59], True),
        ([0.5, 0.505, 0.51], True),  # better by no more than 0.01
        ([0.5, 0.505, 0.511], False),  # each compared with the last that counted
        ([0.0, 0.0, 0.0], True),
        ([0.1 * i for i in range(9)], True),  # all nine epochs
    ],
)
def test_early_stopping(accuracies: list[float], end: bool) -> None:
    recipe = tiny_recipe(epochs=9, early_stop={"patience": 2, "min_delta": 0.01})
    assert finished(recipe, epochs(*accuracies)) is end
    assert finished(tiny_recipe(epochs=9), epochs(*accuracies)) is (len(accuracies) == 9)


def test_a_run_that_no_longer_improves_ends() -> None:
    recipe = tiny_recipe(epochs=50, early_stop={"patience": 3}, optimizer={"type": "sgd", "lr": 1e-12})
    assert len(train(*begin(linear(), recipe))) == 4


# Stages


def stage_values(stage: Stage) -> tuple[int, int, float | None, float | None]:
    policy, mix = stage.inputs.augment.policy, stage.mix
    return stage.inputs.resolution, policy.magnitude, mix and mix.mixup, stage.dropout


def test_stages_are_those_of_efficientnetv2() -> None:
    """Table 6 of Tan & Le 2021, between whose ends stage i of M lies at i / (M - 1): four stages of S, of M and of L."""
    ends = {
        "s": ((128, 300), (5, 15), (0.0, 0.0), (0.1, 0.3)),
        "m": ((128, 380), (5, 20), (0.0, 0.2), (0.1, 0.4)),
        "l": ((128, 380), (5, 25), (0.0, 0.5), (0.1, 0.5)),
    }
    thirds = {
        "s": [(128, 5, None, 0.1), (185, 8, None, 1 / 6), (243, 12, None, 0.7 / 3), (300, 15, None, 0.3)],
        "m": [(128, 5, None, 0.1), (212, 10, 0.2 / 3, 0.2), (296, 15, 0.4 / 3, 0.3), (380, 20, 0.2, 0.4)],
        "l": [(128, 5, None, 0.1), (212, 12, 0.5 / 3, 0.7 / 3), (296, 18, 1 / 3, 1.1 / 3), (380, 25, 0.5, 0.5)],
    }
    for name, (size, magnitude, mixup, dropout) in ends.items():
        grow: dict[str, Any] = {
            "stages": 4, "resolution": size[0] / size[1], "magnitude": magnitude[0], "dropout": dropout[0]
        }  # fmt: skip
        changes: dict[str, Any] = {"augment.policy": {"type": "rand_augment", "magnitude": magnitude[1]}}
        if mixup[1]:
            grow["mixup"], changes["mix"] = mixup[0], {"mixup": mixup[1]}
        recipe = tiny_recipe(epochs=350, progressive=grow, dropout=dropout[1], **changes)
        firsts = [0, 88, 175, 263]  # 350 epochs in four parts, the first epochs at or after 0, 87.5, 175 and 262.5
        for first, expected in zip(firsts, thirds[name], strict=True):
            assert stage_values(stage_of(recipe, size[1], PLAIN, first)) == pytest.approx(expected), (name, first)
        for before, expected in zip(firsts[1:], thirds[name], strict=False):
            assert stage_values(stage_of(recipe, size[1], PLAIN, before - 1)) == pytest.approx(expected), (name, before)
        assert evaluation(recipe, size[1], PLAIN).inputs.resolution == size[1]


def test_without_mixup_in_the_first_stage_cutmix_stays() -> None:
    recipe = tiny_recipe(
        epochs=4, mix={"mixup": 0.4, "cutmix": 1.0}, progressive={"stages": 2, "resolution": 1.0, "mixup": 0.0}
    )
    first, last = (stage_of(recipe, 8, PLAIN, epoch).mix for epoch in (0, 3))
    assert (first and first.mixup, first and first.cutmix) == (None, 1.0)
    assert last == Mix(mixup=0.4, cutmix=1.0)


def test_stages_in_the_loop() -> None:
    """Size of the images, dropout and the reported resolution, epoch by epoch."""
    recipe = tiny_recipe(epochs=4, dropout=0.5, progressive={"stages": 2, "resolution": 0.5, "dropout": 0.1})
    model, seen = normed(), []

    def forward(images: Tensor) -> Tensor:
        seen.append((images.shape[-1], model[11].p))
        logits: Tensor = model(images)
        return logits

    history = train(*begin(model, recipe, forward=forward))
    assert seen == [(4, 0.1)] * 8 + [(8, 0.5)] * 8
    assert [metrics.resolution for metrics in history] == [4, 4, 8, 8]


@pytest.mark.parametrize(("dropout", "expected"), [(None, 0.2), (0.0, 0.0), (0.7, 0.7)])
def test_dropout_is_the_recipes_or_the_networks(dropout: float | None, expected: float) -> None:
    model = normed()
    train(*begin(model, tiny_recipe(dropout=dropout)))
    assert model[11].p == expected


def test_predictions_hold_the_labels_of_each_image_in_order() -> None:
    data = pictures(11)
    found = predict(normed(), Loader(data.take(torch.arange(10, -1, -1)), CPU), evaluation(tiny_recipe(), 8, PLAIN))
    assert isinstance(found, Predictions)
    assert found.labels.tolist() == [label % CLASSES for label in range(10, -1, -1)]
