"""What a stranger's spec, weights or run may not do, one test for each promise of SECURITY.md and each past defect."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from named_tests import ROOT, missing, named
from typer.testing import CliRunner
from writing import WriteYaml

from effnet_builder import ConfigError, WeightsWarning, analyze, build_model, export_weights, load_spec, resolve
from effnet_builder.cli import build, train
from effnet_builder.cli.trained import load_trained
from effnet_builder.config import limit, limits, load_document, override, parse_assignments
from effnet_builder.config.errors import Mark
from effnet_builder.config.reading import node_of
from effnet_builder.models.files import load_weights, read_weights, write_weights
from effnet_builder.tensors import read_tensors, write_tensors
from effnet_builder.train.checkpoint import Checkpoints, Damaged

TINY = """name: tiny
resolution: 8
normalization: {mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}
stem: {out_channels: 2, stride: 1}
stages: [{type: mbconv, expand_ratio: 2, out_channels: 2, se_ratio: 0.5}]
head: {out_channels: 3, num_classes: 3}
"""


def refusal(path: Path | str) -> str:
    with pytest.raises(ConfigError) as error:
        read_weights(path)
    return str(error.value)


@pytest.mark.parametrize("document", ["SECURITY.md", "docs/faults.md"])
def test_every_named_test_exists(document: str) -> None:
    assert len(named(ROOT / document)) >= 10
    assert missing(ROOT / document) == []


# Texts


def test_half_a_character_on_the_command_line_is_refused() -> None:
    for text in ("name=\udcff", "name=a\n\ud800"):
        _, problems = parse_assignments([text])
        assert [problem.message for problem in problems] == ["character not allowed in YAML"]


def test_a_long_path_is_shown_short() -> None:
    found = override(load_document("efficientnet-b0", "archspecs"), {"y " * 5000: node_of(1, Mark("here"))})
    assert len(str(found.problems[0])) < 200


# Files that extend others


def test_what_extends_checks_is_what_it_reads(write_yaml: WriteYaml, tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("secret-word: 1\n")
    spec = write_yaml('extends: "dir/../link.yaml"\nname: mine\n', "in/spec.yaml")
    write_yaml("extends: efficientnet-b0\nname: base\nhead: {num_classes: 7}\n", "in/sub/link.yaml")
    (tmp_path / "in" / "sub" / "deep").mkdir()
    os.symlink("sub/deep", tmp_path / "in" / "dir")
    os.symlink("../secret.yaml", tmp_path / "in" / "link.yaml")  # where the path seems to lead without its links
    assert load_spec(spec).head.num_classes == 7


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000 + "b"])
def test_extends_of_a_name_that_no_disk_has(write_yaml: WriteYaml, name: str) -> None:
    with pytest.raises(ConfigError, match=r":1:10 extends = "):
        load_spec(write_yaml(f"extends: ./{name}.yaml\nname: mine\n"))


# Limits


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("channels", {"head.num_classes": 1_000_001}),
        ("blocks", {"scaling.depth": 80}),
        ("stages", {"stages": [{"type": "conv", "out_channels": 1}] * 201}),
        ("resolution", {"resolution": 65_537}),
        ("multiplier", {"scaling.width": 101}),
        ("weights", {"head.num_classes": 999_999, "head.out_channels": 1_000_000, "in_channels": 1_000_000}),
    ],
)
def test_a_limit_names_itself_and_can_be_raised(name: str, changes: dict[str, object]) -> None:
    said = rf"at most [\d,]+ are allowed \(--limit {name}=N raises it\)"
    if name == "weights":
        with limits(weights=10**6), pytest.raises(ConfigError, match=said):
            resolve(load_spec("efficientnet-b0"))
        return
    with pytest.raises(ConfigError, match=said):
        resolve(load_spec("efficientnet-b0", changes))
    with limits(**{name: 1_100_000}):
        assert analyze(resolve(load_spec("efficientnet-b0", changes))).total.params > 0
    assert limit("blocks") == 1_000


def test_limits_of_files_name_themselves_and_can_be_raised(write_yaml: WriteYaml) -> None:
    for i in range(12):
        chain = write_yaml(f"extends: ./s{i - 1}.yaml\nname: s{i}\n" if i else "extends: efficientnet-b0\nname: s\n", f"s{i}.yaml")  # fmt: skip
    padded = write_yaml("extends: efficientnet-b0\nname: x\n" + "# padding\n" * 30_000, "padded.yaml")
    for name, path in (("files", chain), ("kib", padded)):
        with pytest.raises(ConfigError, match=rf"\(--limit {name}=N raises it\)"):
            load_spec(path)
        with limits(**{name: 1_000}):
            assert load_spec(path).head.num_classes == 1000


def test_a_limit_is_raised_by_a_flag() -> None:
    arguments = ["efficientnet-b0", "--depth", "80"]
    refused = CliRunner().invoke(build.app, arguments)
    assert refused.exit_code == 2
    assert (
        "--depth 80: scaling.depth: 1,280 blocks; at most 1,000 are allowed (--limit blocks=N raises it)"
        in refused.output
    )
    assert CliRunner().invoke(build.app, [*arguments, "--limit", "blocks=2000", "--summary"]).exit_code == 0
    assert limit("blocks") == 1_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block=3", "there is no such limit; did you mean 'blocks'?"), ("qqq=3", "there is no such limit; there are kib, "),
        ("blocks", "expected name=number"), ("blocks=-1", "expected name=number"), ("blocks=1e9", "expected name=number"),
        ("blocks=0", "expected a whole number from 1 to"), ("nesting=1000", "expected a whole number from 1 to 100"),
        ("blocks=" + "9" * 5000, "expected name=number"),
    ],
)  # fmt: skip
def test_a_limit_that_is_none_is_refused(text: str, message: str) -> None:
    result = CliRunner().invoke(build.app, ["efficientnet-b0", "--limit", text])
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output) < 400


# Weights


@pytest.fixture
def zipped() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(4), "b": torch.ones(2)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "opcodes",
    [b"0.", b"N" + b"\x85" * 50_000 + b".", b"h\x05.", b"K\x01Q.", b"\x8a\xff" + b"\x01" * 10 + b".", b"}q\x00X\x01\x00\x00\x00ah\x00s.",
     b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01tR.", b"]" * 1000 + b"a" * 999 + b".", b"K\x05.", b"", b"X\xff\xff\xff\x7fabc."],
)  # fmt: skip
def test_any_failure_of_the_unpickler_is_a_sentence(tmp_path: Path, zipped: bytes, opcodes: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as target, zipfile.ZipFile(io.BytesIO(zipped)) as source:
        for name in source.namelist():
            target.writestr(name, b"\x80\x02" + opcodes if name.endswith("data.pkl") else source.read(name))
    (tmp_path / "b.pth").write_bytes(b"\x80\x02" + opcodes)
    for name in ("a.pth", "b.pth"):
        text = refusal(tmp_path / name)
        assert text.startswith(f"{tmp_path / name}: ")
        assert text.isprintable()
        assert len(text) < 500


LONG = b"a" * 3_000_000


@pytest.mark.parametrize(
    "name",
    [
        b"c" + LONG + b"\n\n.",
        b"c" + LONG,
        b"c\xff" + LONG + b"\nb\n.",
        b"X" + struct.pack("<I", len(LONG)) + LONG + b")R.",
    ],
    ids=["module", "no end", "no ASCII", "function"],
)
@pytest.mark.parametrize("before", [b"", b"N.\x80\x02"])
def test_an_endless_word_in_a_pickle_is_refused_at_once(
    tmp_path: Path, zipped: bytes, name: bytes, before: bytes
) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as target, zipfile.ZipFile(io.BytesIO(zipped)) as source:
        for member in source.namelist():
            target.writestr(member, b"\x80\x02" + name if member.endswith("data.pkl") else source.read(member))
    (tmp_path / "b.pth").write_bytes(b"\x80\x02" + before + name)
    for file in ("a.pth", "b.pth"):  # PyTorch's message would be searched for hours
        assert "is no file of weights" in refusal(tmp_path / file)


class Touch:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch canary",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bytes, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps({"a": Touch()}, protocol)
    with zipfile.ZipFile("a.pth", "w") as target, zipfile.ZipFile(io.BytesIO(zipped)) as source:
        for name in source.namelist():
            target.writestr(name, evil if name.endswith("data.pkl") else source.read(name))
    Path("b.pth").write_bytes(evil)
    torch.save(Touch(), "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.pth", "c.pth"):
        refusal(name)
    assert not Path("canary").exists()


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path: Path, zipped: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("archive/data.pkl", bytes(50_000_000))
    assert "is compressed" in refusal(tmp_path / "deflated.pth")
    # The directory of the archive names the same bytes a hundred times.
    end = zipped.rindex(b"PK\5\6")
    size, start = struct.unpack_from("<II", zipped, end + 12)
    shift = zipped[start : start + size] * 100
    counts = struct.pack("<HHII", *[struct.unpack_from("<H", zipped, end + 10)[0] * 100] * 2, size * 100, start)
    (tmp_path / "overlapping.pth").write_bytes(zipped[:start] + shift + zipped[end : end + 8] + counts + b"\0\0")
    assert "its parts overlap, and may unpack to any size" in refusal(tmp_path / "overlapping.pth")


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).expand(10**12), torch.zeros(2).as_strided((10**6, 10**6), (0, 0)), torch.zeros(3, device="meta"),
     torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1), (10**12,), check_invariants=True)],
)  # fmt: skip
def test_a_tensor_that_claims_more_than_is_stored(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"stem.conv.weight": tensor}, tmp_path / "w.pth")
    assert "stem.conv.weight claims more numbers than are stored, or is no plain tensor" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "entry",
    [{"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}, {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**62]},
     {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 4]}, {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}],
)  # fmt: skip
def test_safetensors_headers_that_lie(tmp_path: Path, entry: dict[str, object]) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": entry}).encode()
    path = tmp_path / "w.safetensors"
    for length in (len(header), 100_000_001, 2**63):
        path.write_bytes(struct.pack("<Q", length) + header + bytes(4))
        assert refusal(path).isprintable()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [8.5, 0.5, 0.5]}, "normalization.mean[0] = 8.5: expected a number from 0 to 1"),
        ({"std": [0.2, 0, 0.2]}, "normalization.std[1] = 0: expected a number above 0 to 10"),
        ({"mean": [0.5, 0.5], "std": [0.2, 0.2]}, "normalizes 2 channels, and its network takes 3"),
    ],
)
def test_a_normalization_that_is_none_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    (tmp_path / "spec.yaml").write_text(TINY)
    model, path = build_model(tmp_path / "spec.yaml"), tmp_path / "w.safetensors"
    spec = json.dumps(
        model.plan.spec.model_dump(mode="json", exclude_unset=True)
        | {"normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], **changes}}
    )
    write_tensors(path, model.state_dict(), {"spec": spec})
    with pytest.raises(ConfigError) as error:
        load_trained(path)
    assert message in str(error.value)


def test_what_a_library_says_of_a_file_is_shown_short(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = json.dumps({"y" * 5000: {"dtype": "F32", "shape": [1], "data_offsets": [3, 1]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    for read in (load_trained, load_spec, read_weights):
        with pytest.raises(ConfigError, match="whole") as error:
            read(path)
        assert len(str(error.value)) < 400


def test_a_pipe_a_device_and_a_directory_are_no_weights(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
        os.symlink("/dev/zero", tmp_path / f"zero{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        for name in ("pipe", "zero", "folder"):
            assert refusal(tmp_path / f"{name}{suffix}").endswith("expected a regular file")


def test_wrappers_that_hold_themselves_end(tmp_path: Path) -> None:
    endless: dict[str, object] = {}
    endless["state_dict"] = endless
    torch.save(endless, tmp_path / "w.pth")
    assert "there are no weights in it" in refusal(tmp_path / "w.pth")


def test_names_of_tensors_cannot_command_the_terminal(tmp_path: Path) -> None:
    model = build_model("tinynet-e", num_classes=3)
    torch.save(
        export_weights(model) | {"\x1b]0;owned\x07": torch.zeros(1), "x" * 3_000: torch.zeros(1)}, tmp_path / "w.pth"
    )
    with pytest.raises(ConfigError) as error:
        load_weights(model, tmp_path / "w.pth")
    assert "\\x1b]0;owned" in str(error.value)
    assert all(line.isprintable() and len(line) < 400 for line in str(error.value).splitlines())


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    model = build_model("tinynet-e", num_classes=3)
    state = export_weights(model)
    torch.save(state | {"stem.conv.weight": state["stem.conv.weight"].to(torch.int8)}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"stem.conv.weight holds int8; stem.conv.weight needs float32"):
        load_weights(model, tmp_path / "w.pth")


def test_a_small_file_whose_spec_is_huge_takes_no_memory(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    spec = TINY.replace("num_classes: 3", "num_classes: 1000000").replace("out_channels: 3", "out_channels: 900000")
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", {"spec": spec})
    for read in (build_model, load_trained):
        with pytest.raises(ConfigError, match=r"its spec has 900,00\d,\d+,\d+ weights, the file only 1$"):
            read(tmp_path / "w.safetensors")  # type: ignore[operator]


def test_classes_that_nest_too_deep_are_no_names(tmp_path: Path, write_yaml: WriteYaml) -> None:
    from safetensors.torch import save_file

    model = build_model(write_yaml(TINY))
    save_file(model.state_dict(), tmp_path / "w.safetensors", {"spec": TINY, "classes": "[" * 100_000})
    assert load_trained(tmp_path / "w.safetensors").classes is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation": "relu"}, "activation silu; the spec has relu (head.conv and "),
        ({"squeeze_excite.gate": "hardsigmoid"}, "gate sigmoid; the spec has hardsigmoid"),
        ({"squeeze_excite.activation": "relu"}, "activation silu; the spec has relu (stages.0.0.squeeze_excite)"),
        ({"stages[0].skip": False}, "skip true; the spec has false (stages.0.0)"),
        ({"padding": "same", "stem.stride": 2}, "padding symmetric; the spec has same (stem)"),
        ({"stem.stride": 2}, "stride 1; the spec has 2 (stem)"),
        ({"norm.eps": 0.1}, "eps 1e-05; the spec has 0.1 (head.conv and "),
        ({"head.pool": "max"}, "pooling avg; the spec has max (head)"),
        ({"norm": {"type": "group", "group_size": 1}}, "norm batch; the spec has group"),
    ],
)  # fmt: skip
def test_weights_for_a_network_that_computes_something_else_are_told(
    tmp_path: Path, write_yaml: WriteYaml, change: dict[str, object], said: str
) -> None:
    model = build_model(write_yaml(TINY))
    write_weights(export_weights(model), model.plan, tmp_path / "w.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(
            build_model(load_spec(tmp_path / "spec.yaml", {"drop_path.rate": 0.1, "resolution": 16})),
            tmp_path / "w.safetensors",
        )
    other = build_model(load_spec(tmp_path / "spec.yaml", change))
    if "norm" in change:  # batch norm has tensors that the others have not
        state = {name: tensor for name, tensor in export_weights(model).items() if name in other.state_dict()}
        write_weights(state, model.plan, tmp_path / "w.safetensors")
    with pytest.warns(WeightsWarning) as found:
        load_weights(other, tmp_path / "w.safetensors")
    assert any(f"w.safetensors was written for {said}" in str(warning.message) for warning in found)


# Data


def data_refusal(source: str) -> str:
    from effnet_builder.train.data import load_dataset

    with pytest.raises(ConfigError) as error:
        load_dataset(source, channels=3, size=32, progress=lambda items, *_: items)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_member_of_negative_size_is_refused(tmp_path: Path) -> None:
    from test_tar import END, header, signed
    from test_webdataset import make_shards

    shard = make_shards(tmp_path) / "train-1.tar"
    end = shard.read_bytes().rindex(b"000005.cls") + 1024
    negative = signed(header("x.txt"), (124, b"\xff" * 10 + b"\xfe\0"))  # tarfile may loop for ever: CVE-2025-8194
    shard.write_bytes(shard.read_bytes()[:end] + negative + END)
    assert "train-1.tar cannot be read: a member of -512 bytes" in data_refusal(f"webdataset:{tmp_path}")


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe"])
@pytest.mark.parametrize("name", ["train-0.tar", "test-0.tar", "classes.txt"])
def test_what_is_not_a_file_is_not_waited_for_in_shards(tmp_path: Path, name: str, kind: str) -> None:
    from test_webdataset import make_shards

    _put(make_shards(tmp_path / "shards") / name, kind)
    said = data_refusal(f"webdataset:{tmp_path / 'shards'}")
    assert name in said
    assert "expected a regular file" in said or "there is no file" in said


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe", "socket"])
def test_what_is_not_a_file_is_not_waited_for_in_folders(tmp_path: Path, kind: str) -> None:
    from folders import make_folder

    root = make_folder(tmp_path / "pets")
    image = next((root / "train").rglob("*.png"))
    _put(image, kind)
    assert f"{image}: not a readable image: not a regular file" in data_refusal(f"folder:{root}")


def test_a_list_of_classes_is_bounded(tmp_path: Path) -> None:
    from test_webdataset import make_shards

    with (make_shards(tmp_path) / "classes.txt").open("wb") as file:
        file.truncate(2**40)
    assert "classes.txt cannot be read: expected at most 16,777,216 bytes" in data_refusal(f"webdataset:{tmp_path}")


def test_pipes_in_the_place_of_a_cache_are_not_waited_for(tmp_path: Path) -> None:
    from effnet_builder.train.cache import open_cache
    from effnet_builder.train.survey import recall

    os.mkfifo(tmp_path / "cache")
    assert open_cache(tmp_path / "cache", "state", False) is None
    assert recall(tmp_path / "cache", "state") is None
    with pytest.raises(Damaged, match="expected a regular file"):
        read_tensors(tmp_path / "cache")


def _put(path: Path, kind: str) -> None:
    """Something that is not a file in the place of one."""
    import socket

    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        os.mkfifo(path.parent.parent / "pipe")
        path.symlink_to(path.parent.parent / "pipe")


# Runs


@pytest.mark.parametrize(
    "written",
    [{}, [], 3, {"order": 3}, {"order": {"best": "x"}, "data": {"classes": ["a"]}}, {"order": {}, "data": {"classes": 3}},
     {"order": {}, "data": {"classes": ["a"]}, "environment": {"threads": -1}}, {"order": {"limits": {"blocks": "x"}}}],
)  # fmt: skip
def test_a_run_json_of_other_types_is_a_sentence(tmp_path: Path, write_yaml: WriteYaml, written: object) -> None:
    write_yaml(TINY)
    write_yaml("extends: digits\nname: x\n", "recipe.yaml")
    (tmp_path / "run.json").write_text(json.dumps(written))
    result = CliRunner().invoke(train.app, ["--resume", str(tmp_path)])
    assert result.exit_code == 2
    assert "its run.json cannot be read: " in result.output


def test_a_raised_limit_stays_with_the_run(tmp_path: Path, write_yaml: WriteYaml) -> None:
    from effnet_builder.cli.order import Order
    from effnet_builder.cli.session import go_on

    write_yaml(TINY.replace("expand_ratio: 2", "repeats: 1200, expand_ratio: 2"))
    write_yaml("extends: digits\nname: x\n", "recipe.yaml")
    written = {"order": {"limits": {"blocks": 2000}}, "data": {"classes": []}, "environment": {"threads": 1}}
    (tmp_path / "run.json").write_text(json.dumps(written))
    assert go_on(tmp_path, {}, None, {}, False).order.limits == {"blocks": 2000}
    assert Order(limits={"blocks": 5}).vary({"limits": {"stages": 7}}).limits == {"blocks": 5, "stages": 7}
    (tmp_path / "run.json").write_text(json.dumps(written | {"order": {}}))
    with pytest.raises(ConfigError, match="limit blocks=N raises it"):
        go_on(tmp_path, {}, None, {}, False)


@pytest.mark.parametrize("facts", [{"step": 3}, {"spec": 3, "recipe": [], "step": 3, "steps_per_epoch": 1}])
def test_a_forged_checkpoint_is_a_sentence(tmp_path: Path, write_yaml: WriteYaml, facts: dict[str, object]) -> None:
    from effnet_builder.train.checkpoint import Checkpoint, write

    write_yaml(TINY)
    normalize = "normalize: {mean: [0, 0, 0], std: [1, 1, 1]}"
    write_yaml(f"extends: digits\nname: x\n{normalize}\n", "recipe.yaml")
    order = {"data": "fake:90x3", "report": False}
    written = {
        "order": order,
        "data": {"classes": ["a", "b", "c"]},
        "environment": {"threads": torch.get_num_threads()},
    }
    (tmp_path / "run.json").write_text(json.dumps(written))
    (tmp_path / "checkpoints").mkdir()
    write(tmp_path / "checkpoints" / "step-000000003.safetensors", Checkpoint({"model.x": torch.zeros(1)}, facts))
    result = CliRunner().invoke(train.app, ["--resume", str(tmp_path)])
    assert result.exit_code == 2
    assert "its checkpoint does not say what it belongs to" in result.output
    with pytest.raises(ConfigError, match="its checkpoint does not fit its spec.yaml: "):
        load_trained(tmp_path, "last")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (json.dumps({"format": "y" * 5000}), r"of format y+\.\.\.; this version reads format 1$"),
        (json.dumps({"format": 1, "step": "y" * 5000}), r"is of step y+\.\.\., whatever its name says$"),
        (json.dumps({"format": 1, "step": {"a": 1}}), "is of step .* whatever its name says$"),
        ("[" * 100_000, "no checkpoint$"),
        ("[]", "no checkpoint$"),
        ("{}", "no checkpoint$"),
        ("{", "no checkpoint$"),
    ],
    ids=["format", "step", "step of another type", "deep", "list", "empty", "cut"],
)
def test_forged_facts_of_a_checkpoint_are_a_short_sentence(tmp_path: Path, facts: str, message: str) -> None:
    write_tensors(tmp_path / "step-000000003.safetensors", {}, {"facts": facts})
    ((_, found),) = Checkpoints(tmp_path).newest()
    assert isinstance(found, Damaged)
    assert re.search(message, str(found))


def test_nothing_asks_the_network(tmp_path: Path, write_yaml: WriteYaml) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from effnet_builder import build_model, load_spec\n"
        "build_model(load_spec(sys.argv[1]))\n"
        "for url in ('http://localhost/a.yaml', 'https://example.org/w.safetensors'):\n"
        "    try: load_spec(url)\n"
        "    except Exception as error: assert type(error).__name__ == 'ConfigError', error\n"
    )
    subprocess.run([sys.executable, "-c", code, str(write_yaml(TINY))], check=True)
