"""What must hold for every input: it is accepted, and then everything that follows works, or refused as ConfigError.

A target takes one input and says whether it was accepted. Anything but ConfigError that escapes is a finding, and so is
a broken property, which is an AssertionError.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import fuzz_inputs as inputs

from effnet_builder import ConfigError, Plan, analyze, load_spec, resolve
from effnet_builder.arch.spec import variant_overrides
from effnet_builder.arch.summary import render_summary, summary_data
from effnet_builder.config import parse_assignments
from effnet_builder.config.reading import parse_yaml, plain
from effnet_builder.train.recipe import load_recipe

warnings.simplefilter("ignore")


@dataclass(frozen=True)
class Target:
    """How inputs of one kind are made, and what is done with one; `check` says whether it was accepted."""

    make: Callable[[Random], Any]
    check: Callable[[Any], bool]


def refused(error: ConfigError, secret: str | None = None) -> bool:
    """What is said is short and printable, and repeats no other file; False, as the verdict."""
    text = str(error)
    lines = text.splitlines()
    assert text
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    assert len(lines) <= 30, text
    assert max(map(len, lines)) < 1500, text
    assert secret is None or secret not in text, text
    return False


def _shows(plan: Plan) -> None:
    """Whatever validates also resolves, analyzes, prints, and says itself again."""
    analysis = analyze(plan)
    total = analysis.total
    assert min(total.params, total.macs, total.activations) >= 0
    assert plan.resolution >= 1
    spec = plan.spec
    if (total.params + total.macs) % 32 == 0:  # some of them: this takes several times as long as all the rest
        assert render_summary(plan, analysis)
        assert summary_data(plan, analysis)
        again = parse_yaml(spec.to_yaml(), "again")
        assert not again.problems
        assert type(spec).model_validate(plain(again.root)) == spec, spec.to_yaml()


def specs(folder: Path) -> Target:
    """YAML files of specs, up to their counts."""
    path = folder / "spec.yaml"

    def check(data: str | bytes) -> bool:
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        try:
            plan = resolve(load_spec(path))
        except ConfigError as error:
            return refused(error)
        _shows(plan)
        return True

    return Target(inputs.specs, check)


def recipes(folder: Path) -> Target:
    """YAML files of recipes, and the schedule and the names of what they say."""
    path = folder / "recipe.yaml"

    def check(data: str | bytes) -> bool:
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        try:
            recipe = load_recipe(path)
        except ConfigError as error:
            return refused(error)
        again = parse_yaml(recipe.to_yaml(), "again")
        assert not again.problems
        assert type(recipe).model_validate(plain(again.root)) == recipe
        return True

    return Target(inputs.recipes, check)


def assignments(folder: Path) -> Target:
    """Arguments of --set on shipped documents."""

    def check(given: tuple[str, str, list[str]]) -> bool:
        kind, name, texts = given
        try:
            values, problems = parse_assignments(texts)
            if problems:
                raise ConfigError(problems)
            if kind == "recipes":
                load_recipe(name, values)
            else:
                _shows(resolve(load_spec(name, values)))
        except ConfigError as error:
            return refused(error)
        return True

    return Target(inputs.assignments, check)


def multipliers(folder: Path) -> Target:
    """--phi, --width and the like on shipped networks."""

    def check(given: tuple[str, dict[str, float]]) -> bool:
        name, flags = given
        try:
            _shows(resolve(load_spec(name, variant_overrides(**flags))))
        except ConfigError as error:
            return refused(error)
        return True

    return Target(inputs.multipliers, check)


def extends(folder: Path) -> Target:
    """Files that extend each other, with links, cycles and ways out of the folder."""
    root, outside = folder / "in" / "specs", folder / "in" / "outside"
    outside.mkdir(parents=True)
    for secret in (
        outside / "outside.yaml",
        folder / "in" / "outside.yaml",
        folder / "outside.yaml",
        outside / "a.yaml",
        folder / "in" / "a.yaml",
    ):
        secret.write_text(f"name: {inputs.SECRET}\n{inputs.SECRET}: 1\n")
    (outside / "sub").mkdir()

    def check(files: dict[str, str]) -> bool:
        shutil.rmtree(root, ignore_errors=True)
        (root / "sub").mkdir(parents=True)
        for name, text in files.items():
            path = root / name
            if text.startswith("link:"):
                path.unlink(missing_ok=True)
                path.symlink_to(text.removeprefix("link:"))
            elif not path.is_symlink():
                path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            spec = load_spec(root / "top.yaml")
            assert inputs.SECRET not in spec.to_yaml()
            _shows(resolve(spec))
        except ConfigError as error:
            # What the person names may lie anywhere; what it extends may not.
            return refused(error, None if (root / "top.yaml").is_symlink() else inputs.SECRET)
        return True

    return Target(inputs.folders, check)


def networks(folder: Path) -> Target:
    """Specs as modules: their weights and products are those of the plan, and they run."""
    from effnet_builder.models.network import Network

    path = folder / "spec.yaml"

    def check(text: str) -> bool:
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            plan = resolve(load_spec(path))
        except ConfigError as error:
            return refused(error)
        total = analyze(plan).total
        if len(plan.blocks) > 60:
            return True
        small = total.params < 2e6 and total.macs < 2e7 and total.activations < 3e6
        torch.manual_seed(0)
        with torch.device("cpu" if small else "meta"):
            model = Network(plan).eval()
            images = torch.rand(2, plan.in_channels, plan.resolution, plan.resolution)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            out = model(images)
        assert sum(parameter.numel() for parameter in model.parameters()) == total.params
        assert sum(buffer.numel() for buffer in model.buffers()) == total.buffers
        assert counter.get_total_flops() == 2 * 2 * total.macs
        assert out.shape == (2, plan.num_classes or plan.head.hidden_size)
        assert not small or bool(out.isfinite().all())
        return True

    return Target(inputs.networks, check)


_TINY = """name: tiny
resolution: 8
normalization: {mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}
stem: {out_channels: 2, stride: 1}
stages: [{type: mbconv, expand_ratio: 1, out_channels: 2, stride: 2, se_ratio: 0.5}]
head: {out_channels: 3, num_classes: 3}
"""


def _tiny(folder: Path) -> Any:
    from effnet_builder import build_model

    path = folder / "tiny.yaml"
    path.write_text(_TINY)
    return build_model(path)


def safetensors(folder: Path) -> Target:
    """Files of weights with their spec, read as eval-arch and predict-arch read them."""
    from safetensors.torch import save_file

    from effnet_builder.cli.trained import load_trained
    from effnet_builder.models.files import metadata, read_weights

    path, model = folder / "w.safetensors", _tiny(folder)
    # A stranger's file has no digest; with one, every change would be refused before anything else is looked at.
    said = metadata(model.plan) | {"classes": '["a", "b", "c"]'}
    save_file(model.state_dict(), path, said)
    valid = path.read_bytes()

    def check(data: bytes) -> bool:
        path.write_bytes(data)
        accepted = True
        for read in (read_weights, load_trained):
            try:
                read(path)
            except ConfigError as error:
                accepted = refused(error)
        return accepted

    return Target(lambda rng: inputs.safetensors(rng, valid), check)


def pth(folder: Path) -> Target:
    """PyTorch's files: no code runs, no size surprises."""
    import io

    import torch

    from effnet_builder.models.files import load_weights

    path, canary, model = folder / "w.pth", folder / "canary", _tiny(folder)
    files = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, buffer, _use_new_zipfile_serialization=zipped)
        files.append(buffer.getvalue())

    def check(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            load_weights(model, path)
        except ConfigError as error:
            return refused(error)
        finally:
            assert not canary.exists(), "code ran"
        return True

    return Target(lambda rng: inputs.pth(rng, *files, str(canary)), check)


class _AtTheFirstStep(BaseException):
    """Everything before it went well."""


def runs(folder: Path) -> Target:
    """Run directories: `--resume` up to the first step, and what eval-arch and predict-arch read."""
    from unittest import mock

    import typer
    from typer.testing import CliRunner

    from effnet_builder.cli import session, train
    from effnet_builder.cli.trained import load_trained

    made, run = folder / "made", folder / "run"
    arguments = [
        str(folder / "tiny.yaml"),
        "--data",
        "fake:40x3",
        "--epochs",
        "1",
        "--out",
        str(made),
        "--no-report",
        "--save-every",
        "1",
    ]
    _tiny(folder)
    result = CliRunner().invoke(train.app, [*arguments, "--set", "batch_size=16", "--set", "augment.crop_padding=0"])
    assert result.exit_code == 0, result.output
    names = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file() and path.name != ".lock")
    contents = {name: (made / name).read_bytes() for name in names}

    def check(files: dict[str, bytes | None]) -> bool:
        shutil.rmtree(run, ignore_errors=True)
        (run / "checkpoints").mkdir(parents=True)
        for name, content in files.items():
            if content is not None:
                (run / name).write_bytes(content)
        said = StringIO()
        accepted = True
        with (
            redirect_stdout(said),
            redirect_stderr(said),
            mock.patch.object(session, "fit", side_effect=_AtTheFirstStep),
        ):
            for step in (
                lambda: session.go_on(run, {}, None, {}, False).train(fit_batch=False),
                lambda: load_trained(run),
                lambda: load_trained(run, "last"),
                lambda: load_trained(run, "best"),
            ):
                try:
                    step()
                except ConfigError as error:
                    accepted = refused(error)
                except (OSError, typer.Exit):
                    accepted = False
                except _AtTheFirstStep:
                    pass
        return accepted

    return Target(lambda rng: inputs.run(rng, contents), check)


def _by_tarfile(data: bytes) -> dict[str, bytes]:
    """The images that tarfile finds in an archive. Every size in it was checked by us: some versions loop otherwise."""
    import io
    import tarfile

    found = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            kind = member.name.rpartition("/")[2].partition(".")[2].lower()
            if member.isreg() and kind in ("jpg", "jpeg", "png", "webp"):
                content = archive.extractfile(member)
                found[member.name] = b"" if content is None else content.read()
    return found


def tar(folder: Path) -> Target:
    """Shards of a webdataset: what is taken is what tarfile takes, and nothing is waited for."""
    import io
    import tarfile
    from unittest import mock

    from PIL import Image

    from effnet_builder.config import Mark
    from effnet_builder.train import webdataset
    from effnet_builder.train.encoded import Listing
    from effnet_builder.train.images import Wanted

    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "png")
    image = buffer.getvalue()
    wanted = Wanted(3, 8, None, lambda items, *_: items, Mark("--data webdataset:x"))
    for name in ("train.tar", "test.tar"):
        (folder / name).write_bytes(inputs.archive(Random(0), image, tarfile.PAX_FORMAT))
    classes = "\n".join(map(str, range(10)))
    (folder / "classes.txt").write_text(classes)

    def check(data: bytes) -> bool:
        (folder / "train.tar").write_bytes(data)
        with mock.patch.object(webdataset, "keep", lambda listing, _: listing):
            try:
                listing: Any = webdataset.read_webdataset(str(folder), wanted)
            except ConfigError as error:
                if "test has images of classes that train has not" in str(error):
                    return False
                return refused(error)
        assert isinstance(listing, Listing)
        files = listing.files
        ours = [(files.name(row), files.content(row)) for row in range(listing.train)]
        assert all(len(content) == files.sizes[row] for row, (_, content) in enumerate(ours))
        try:
            theirs = _by_tarfile(data)
        except ValueError:
            if b"GNU.sparse." in data:  # tarfile reads the maps of members that we pass over
                return True
            raise
        theirs = {name: content for name, content in theirs.items() if not name.rpartition("/")[2].startswith(".")}
        assert dict(ours) == theirs
        return True

    return Target(lambda rng: inputs.tar(rng, image), check)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "specs": specs,
    "recipes": recipes,
    "assignments": assignments,
    "extends": extends,
    "multipliers": multipliers,
    "networks": networks,
    "safetensors": safetensors,
    "pth": pth,
    "runs": runs,
    "tar": tar,
}


def at(kind: str, seed: int, index: int) -> Random:
    """What makes input number `index`, whatever was made before it."""
    return Random(f"{kind}:{seed}:{index}")
