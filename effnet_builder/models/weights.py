"""Weights in and out: a state dict in any known layout into a network of ours, and back, every tensor accounted for."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..arch.plan import Plan
from ..config import ConfigError, Problem, shorten
from .layouts import LAYOUTS, Layout, known_eps, known_padding, module_pairs, recognize, tidy
from .trunk import Trunk

_TAILS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# As timm: the averaged weights, where a checkpoint has them, are those to evaluate.
_MAX_WRAPPERS = 8  # one in another; a file may also hold itself
_MAX_COMPARED, _MAX_NAME = 2_000, 200  # names among which the nearest is looked for, and their length
_MAX_DESCRIBED = 20  # tensors whose nearest name is looked for, which takes time for each
_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "module")


class WeightsWarning(UserWarning):
    """Weights were adapted, or do not quite fit the spec; the text says how."""


def import_weights(model: Trunk, state_dict: Mapping[str, Any], layout: Layout | None = None) -> None:
    """Copy weights into a model: of one layout, recognized from the names if not given, plain or wrapped.

    Wrapped means inside `state_dict`, `model`, `ema` or the like, or with names that start with `module.`. Two things
    are adapted, with a WeightsWarning: a classifier of another number of classes stays as it is, and the stem is fitted
    to `in_channels` by `adapt_in_channels`. Raises ConfigError for every tensor that is missing, has no place, or has
    another shape; the model is then unchanged.
    """
    state = unwrap(state_dict)
    layout = layout or _recognized(state)
    own = model.state_dict()
    names = _names(model.plan, layout)
    places = {theirs: ours for theirs, ours in names.items() if ours in own}
    problems: list[str] = []
    fitted: dict[str, Tensor] = {}
    classifier = {theirs for theirs, ours in names.items() if ours.startswith("head.classifier.")}
    other_classes = any(
        name in state and name in places and state[name].shape != own[places[name]].shape for name in classifier
    )
    for theirs, ours in places.items():
        if theirs in classifier and (other_classes or not classifier & state.keys()):
            continue
        if theirs not in state:
            if not ours.endswith("num_batches_tracked"):  # PyTorch before 0.4.1 did not count
                problems.append(_missing(theirs, own[ours], state, places if len(problems) < _MAX_DESCRIBED else None))
            continue
        tensor = _fitted(ours, state[theirs], own[ours])
        if not _same_kind(state[theirs], own[ours]):
            problems.append(f"{theirs} holds {_type(state[theirs])}; {ours} needs {_type(own[ours])}")
        elif tensor is None:
            problems.append(f"{theirs} has the shape {_shape(state[theirs])}; {ours} needs {_shape(own[ours])}")
        else:
            fitted[ours] = tensor
    spare = [name for name in state if name not in places and name not in names and name not in classifier]
    spare = [name for name in spare if not _is_old_classifier(name, layout)]
    problems += [_unexpected(name, state, places, own) for name in spare[:_MAX_DESCRIBED]]
    problems += [f"{shorten(name)}: has no place in the network" for name in spare[_MAX_DESCRIBED:]]
    if problems:
        raise ConfigError([Problem(text) for text in problems])
    _warn_of_changes(model.plan, layout, state, places, classifier, other_classes)
    model.load_state_dict(own | fitted)


def export_weights(model: Trunk, layout: Layout = "effnet_builder") -> dict[str, Tensor]:
    """The state dict under another library's names and shapes. Raises ConfigError where it has no such network."""
    own = model.state_dict()
    found: dict[str, Tensor] = {}
    for theirs, ours in _names(model.plan, layout).items():
        if ours in own:
            tensor = own[ours].detach()
            # torchvision's MobileNetV3 has a linear layer where the pooling precedes the convolution.
            linear = layout == "torchvision" and theirs == "classifier.0.weight"
            found[theirs] = tensor.flatten(1) if linear else tensor
    return found


def adapt_in_channels(weight: Tensor, in_channels: int) -> Tensor:
    """(C_out, C, k, k) to (C_out, in_channels, k, k): one channel gets the sum, n get the C in turn, scaled by C / n.

    So a grey image repeated over the channels gives what it gave before (timm's `adapt_input_conv`).
    """
    given = weight.shape[1]
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = math.ceil(in_channels / given)
    return weight.repeat(1, repeats, 1, 1)[:, :in_channels] * (given / in_channels)


def unwrap(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name. Raises ConfigError where there are none."""
    for _ in range(_MAX_WRAPPERS):
        inner = next((state_dict[name] for name in _WRAPPERS if isinstance(state_dict.get(name), Mapping)), None)
        if inner is None:
            break
        state_dict = inner
    state = {tidy(name): value for name, value in state_dict.items() if isinstance(value, Tensor) and type(name) is str}
    state.pop("n_averaged", None)  # of torch.optim.swa_utils.AveragedModel
    if not state:
        keys = ", ".join(shorten(name) for name in list(state_dict)[:5] if type(name) is str) or "nothing"
        raise ConfigError([Problem(f"there are no weights in it; found {keys}")])
    return state


def _recognized(state: Mapping[str, Tensor]) -> Layout:
    layout = recognize(state)
    if layout is None:
        some, known = ", ".join(map(shorten, list(state)[:3])), ", ".join(LAYOUTS)
        raise ConfigError([Problem(f"the names ({some}, ...) are of no known layout; there are {known}")])
    return layout


def _names(plan: Plan, layout: Layout) -> dict[str, str]:
    """Their tensor names to ours; not every module has every tensor."""
    try:
        pairs = module_pairs(plan, layout)
    except ValueError as error:
        raise ConfigError([Problem(f"{plan.name} has no place in the layout {layout!r}: {error}")]) from None
    return {f"{theirs}.{tail}": f"{ours}.{tail}" for ours, theirs in pairs for tail in _TAILS}


def _fitted(name: str, given: Tensor, wanted: Tensor) -> Tensor | None:
    """The tensor in the wanted shape, or None where it cannot have it."""
    if given.shape == wanted.shape:
        return given
    if {given.dim(), wanted.dim()} == {2, 4} and given.flatten(1).shape == wanted.flatten(1).shape:
        return given.reshape(wanted.shape)  # a 1x1 convolution of one pixel is a linear layer
    one_side = given.dim() == 4 and (given.shape[0], *given.shape[2:]) == (wanted.shape[0], *wanted.shape[2:])
    return adapt_in_channels(given, wanted.shape[1]) if name == "stem.conv.weight" and one_side else None


def _is_old_classifier(name: str, layout: Layout) -> bool:
    """A classifier's tensor, for a network that has none."""
    heads = {"effnet_builder": "head.classifier.", "torchvision": "classifier.", "timm": "classifier."}
    return name.startswith(heads.get(layout, "_fc."))


def _missing(name: str, wanted: Tensor, state: Mapping[str, Tensor], places: Mapping[str, str] | None) -> str:
    spare = [] if places is None else [other for other in state if other not in places]
    return f"{name}: missing, {_shape(wanted)}{_nearest(name, spare, state)}"


def _unexpected(name: str, state: Mapping[str, Tensor], places: Mapping[str, str], own: Mapping[str, Tensor]) -> str:
    wanted = {theirs: own[ours] for theirs, ours in places.items() if theirs not in state}
    return f"{shorten(name)}: has no place in the network, {_shape(state[name])}{_nearest(name, list(wanted), wanted)}"


def _nearest(name: str, others: list[str], tensors: Mapping[str, Tensor]) -> str:
    some = [other for other in others[:_MAX_COMPARED] if len(other) <= _MAX_NAME]
    close = difflib.get_close_matches(name[:_MAX_NAME], some, n=1, cutoff=0.5)
    return f"; nearest is {close[0]}, {_shape(tensors[close[0]])}" if close else ""


def _shape(tensor: Tensor) -> str:
    return shorten("x".join(map(str, tensor.shape[:20]))) or "a number"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _same_kind(given: Tensor, wanted: Tensor) -> bool:
    """Whether numbers of one kind can stand for the other: whole and complex ones are no weights."""
    return not given.is_complex() and (given.is_floating_point() or not wanted.is_floating_point())


def _warn_of_changes(
    plan: Plan,
    layout: Layout,
    state: Mapping[str, Tensor],
    places: Mapping[str, str],
    classifier: set[str],
    other_classes: bool,
) -> None:
    given = next((state[name].shape[0] for name in classifier if name in state), None)
    if other_classes:
        _warn(
            plan, f"the classifier keeps its own weights: the file has {given:,} classes, the spec {plan.num_classes:,}"
        )
    elif plan.num_classes and given is None and any(name in places for name in classifier):
        _warn(plan, "the classifier keeps its own weights: the file has none")
    stem = next((state[theirs] for theirs, ours in places.items() if ours == "stem.conv.weight"), None)
    if stem is not None and stem.shape[1] != plan.in_channels:
        _warn(
            plan, f"the stem is adapted from {stem.shape[1]} to {plan.in_channels} input channels (adapt_in_channels)"
        )
    eps, padding = known_eps(plan, layout), known_padding(layout)
    norm = plan.stem.norm
    if eps is not None and norm is not None and norm.eps != eps:
        _warn(plan, f"these weights of {layout} belong to norms with eps {eps:g}; the spec has {norm.eps:g}")
    if padding is not None and plan.spec.padding != padding:
        _warn(plan, f"weights of {layout} belong to padding {padding!r}; the spec has {plan.spec.padding!r}")


def _warn(plan: Plan, text: str) -> None:
    warnings.warn(f"{plan.name}: {text}", WeightsWarning, stacklevel=4)
