"""What a network says of images, as aligned lines for people and as rows for JSON."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from ..config import printable


def describe_prediction(top: Sequence[int], probabilities: Sequence[float], classes: Sequence[str]) -> list[str]:
    """One line for each class of `top`: its name and its probability, aligned.

    `  tabby cat  93.20 %`
    """
    names = [printable(classes[index]) for index in top]
    width = max(map(cell_len, names), default=0)
    return [
        f"  {name}{' ' * (width - cell_len(name))}  {_percent(probability):>7} %"
        for name, probability in zip(names, probabilities, strict=True)
    ]


def predictions_table(
    sources: Sequence[str],
    top: Sequence[Sequence[int]],
    probabilities: Sequence[Sequence[float]],
    classes: Sequence[str],
) -> str:
    """One block for each image: its name, below it `describe_prediction`; an empty line between two."""
    blocks = [
        "\n".join([printable(source), *describe_prediction(indices, shares, classes)])
        for source, indices, shares in zip(sources, top, probabilities, strict=True)
    ]
    return "\n\n".join(blocks)


def prediction_rows(
    sources: Sequence[str],
    top: Sequence[Sequence[int]],
    probabilities: Sequence[Sequence[float]],
    classes: Sequence[str],
) -> list[dict[str, object]]:
    """`{"image": ..., "predictions": [{"class": name, "index": i, "probability": p}, ...]}` for each image."""
    return [
        {
            "image": source,
            "predictions": [
                {"class": classes[index], "index": index, "probability": probability}
                for index, probability in zip(indices, shares, strict=True)
            ],
        }
        for source, indices, shares in zip(sources, top, probabilities, strict=True)
    ]


def _percent(share: float) -> str:
    """Two digits, but nothing short of certainty is shown as certain, and nothing possible as impossible."""
    if 0 < share < 0.00005:
        return "< 0.01"
    if 0.99995 <= share < 1:
        return "> 99.99"
    return f"{share:.2%}"[:-1]
