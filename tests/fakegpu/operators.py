"""What is to be done with each op: left to PyTorch's CUDA code, decomposed, copied, or computed by the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch._ops import OpOverload

from .kernels import CUDA_ONLY


class Kind(Enum):
    """Who carries out an op."""

    REAL = auto()
    """PyTorch's CUDA code: views, allocations, and what needs no kernel."""
    COLLECTIVE = auto()
    """PyTorch's process groups."""
    DECOMPOSE = auto()
    """The ops that it is made of; such ops are only met in inference mode."""
    COPY = auto()
    TO_COPY = auto()
    INDEX = auto()
    COMPUTE = auto()


_REAL = frozenset(
    [
        "empty",
        "empty_strided",
        "empty_like",
        "new_empty",
        "new_empty_strided",
        "_empty_affine_quantized",
        "_efficientzerotensor",
        "_unsafe_view",
        "set_",
        "resize_",
        "resize_as_",
        "_resize_output_",
        "lift",
        "lift_fresh",
        "detach",
        "alias",
        "record_stream",
        "is_pinned",
        "_pin_memory",
        "is_same_size",
        "_local_scalar_dense",
        "_has_same_storage_numel",
        "_reshape_alias",
    ]
)
_REAL_NAMESPACES = frozenset({"prim", "profiler", "debugprims", "streams"})
_COLLECTIVES = frozenset({"c10d", "_c10d_functional", "_c10d_functional_autograd"})
_INDEX = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"})
# Ops for whose result the host waits, because it has to know its size or its value.
_WAITS = frozenset(
    [
        "nonzero",
        "masked_select",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "unique_dim_consecutive",
        "bincount",
        "equal",
        "_linalg_check_errors",
        "_ctc_loss",
    ]
)


@dataclass(frozen=True, slots=True)
class Operator:
    """How the fake GPU carries out an op."""

    name: str
    kind: Kind
    kernel: Callable[..., Any]
    """The op itself, or a CPU kernel for what only CUDA has."""
    written: tuple[int, ...]
    """Positions of the arguments that the op writes to."""
    outputs: tuple[str, ...]
    """Names of its `out=` arguments."""
    waits: bool
    random: bool
    seeded: Callable[..., Any] | None
    """For a random op: the op, or its overload, that takes a generator; None if there is no such."""


def classify(func: OpOverload) -> Operator:
    """Return how to carry out an op, and remember it."""
    schema = func._schema
    namespace, name = schema.name.split("::")
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments]
    operator = OPERATORS[func] = Operator(
        name=name,
        kind=_kind(func, namespace, name),
        kernel=CUDA_ONLY.get(func, func),
        written=tuple(i for i, argument in enumerate(schema.arguments) if written[i] and not argument.kwarg_only),
        outputs=tuple(
            argument.name for i, argument in enumerate(schema.arguments) if written[i] and argument.kwarg_only
        ),
        waits=name in _WAITS,
        random=torch.Tag.nondeterministic_seeded in func.tags,
        seeded=_seeded(func),
    )
    return operator


OPERATORS: dict[OpOverload, Operator] = {}


def _kind(func: OpOverload, namespace: str, name: str) -> Kind:
    if namespace in _COLLECTIVES:
        return Kind.COLLECTIVE
    if namespace in _REAL_NAMESPACES or name in _REAL:
        return Kind.REAL
    if func._can_decompose():
        return Kind.DECOMPOSE
    if name == "copy_":
        return Kind.COPY
    if name == "_to_copy":
        return Kind.TO_COPY
    if name in _INDEX:
        return Kind.INDEX
    aliases = [result.alias_info for result in func._schema.returns if result.alias_info is not None]
    if any(not alias.is_write for alias in aliases):
        return Kind.REAL  # a view
    return Kind.COMPUTE


def _seeded(func: OpOverload) -> Callable[..., Any] | None:
    if func in CUDA_ONLY:
        return CUDA_ONLY[func]
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    packet = func.overloadpacket
    if func._overloadname == "default" and "generator" in packet.overloads():
        return packet.generator
    return None
