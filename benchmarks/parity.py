"""Every shipped network beside torchvision's and timm's: counts, outputs with their weights, weights there and back.

python benchmarks/parity.py [--only NAME] [--max-params 150e6]
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from importlib.metadata import version

import timm
import torch
import torchvision
from torch import nn

from effnet_builder import Plan, analyze, build_model, export_weights, import_weights, load_spec, resolve
from effnet_builder.config import shipped
from effnet_builder.models.compare import build_peer, largest_difference

LIBRARIES = {"torchvision": torchvision.models.list_models(), "timm": timm.list_models()}


def counts_agree(peer: nn.Module, plan: Plan) -> bool:
    """Params, and elements of buffers."""
    total = analyze(plan).total
    found = [sum(tensor.numel() for tensor in tensors) for tensors in (peer.parameters(), peer.buffers())]
    return found == [total.params, total.buffers]


def comes_back(peer: nn.Module, plan: Plan, library: str) -> bool:
    """Whether their state dict, through ours, is the same again."""
    state = peer.state_dict()
    model = build_model(plan).double()
    import_weights(model, state)
    back = export_weights(model, library)  # type: ignore[arg-type]
    return back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def main() -> None:
    """Print a line for each pair, and how many are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="networks with this in their name")
    parser.add_argument("--max-params", type=float, default=150e6, help="larger networks are left out")
    options = parser.parse_args()
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm")))
    print("relative difference of outputs: float64, random weights and statistics, 2 random images of 64 px\n")
    worst: dict[str, list[float]] = defaultdict(list)
    start = time.perf_counter()
    specs = shipped("archspecs")
    for name in specs:
        plan = resolve(load_spec(name))
        their_name = name.removeprefix("timm-").replace("-", "_")
        if options.only not in name or analyze(plan).total.params > options.max_params:
            continue
        for library, names in LIBRARIES.items():
            # B5 to B7 have one name in both libraries and another eps: ours are torchvision's, timm's have a prefix.
            other = name.startswith("timm-") if library == "torchvision" else f"timm-{name}" in specs
            if other or their_name not in names:
                continue
            torch.manual_seed(0)
            peer = build_peer(library, their_name, plan)  # type: ignore[arg-type]
            difference = largest_difference(peer, plan)
            verdict = "equal" if counts_agree(peer, plan) and comes_back(peer, plan, library) else "DIFFER"
            worst[library].append(difference)
            print(f"{name:36} {library:12} {difference:8.1e}  counts and weights there and back: {verdict}", flush=True)
    for library, found in worst.items():
        equal = sum(difference < 1e-9 for difference in found)
        print(f"\n{library}: {equal} of {len(found)} networks with outputs within 1e-9")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
