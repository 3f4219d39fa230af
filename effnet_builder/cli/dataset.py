"""The data of a run, as its order asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from ..arch.plan import Plan
from ..escaping import rich_text
from ..train.data import Dataset, load_dataset, place
from ..train.storage import OnBad, Storage
from .order import Order

if TYPE_CHECKING:
    from ..train.data import Progress


def read_data(order: Order, plan: Plan, eval_crop: float, device: torch.device) -> Dataset:
    """The data of an order, for a network, on the device where they fit. Raises ConfigError."""
    dataset = load_dataset(
        order.data,
        channels=plan.in_channels,
        size=round(plan.resolution / eval_crop),
        progress=progress(Console(highlight=False)),
        storage=order.storage,
        on_bad=OnBad(order.on_bad),
    )
    return place_on_device(dataset, device, Storage(order.storage))


def place_on_device(dataset: Dataset, device: torch.device, storage: Storage = Storage.auto) -> Dataset:
    """The data with their images on a CUDA device, where they fit into half of its free memory. Raises ConfigError."""
    if device.type != "cuda":
        return dataset
    return place(dataset, device, torch.cuda.mem_get_info(device)[0], storage)


def progress(console: Console) -> Progress:
    """A bar on a terminal, nothing elsewhere."""
    from rich.progress import track

    def wrap(items: Iterable[object], total: int, description: str) -> Iterable[object]:
        return track(
            items, rich_text(description), total, console=console, transient=True, disable=not console.is_terminal
        )

    return wrap
