"""Weights of torchvision and timm in and out: the same tensors, the same outputs, and every mistake named."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import peers
import pytest
import torch
import torchvision
from test_parity import relative_error
from torch import nn
from typer.testing import CliRunner

from effnet_builder import ConfigError, WeightsWarning, build_model, export_weights, import_weights, load_spec
from effnet_builder.cli.build import app
from effnet_builder.models.files import load_weights, read_weights, write_weights
from effnet_builder.models.weights import adapt_in_channels

TORCHVISION = {
    "efficientnet-b0": "efficientnet_b0", "efficientnet-v2-s": "efficientnet_v2_s", "mobilenet-v2": "mobilenet_v2",
    "mobilenet-v3-large": "mobilenet_v3_large", "mobilenet-v3-small": "mobilenet_v3_small",
    "mnasnet0-5": "mnasnet0_5", "mnasnet1-3": "mnasnet1_3",
}  # fmt: skip
TIMM = [
    "efficientnet-b0", "tf-efficientnet-b0", "efficientnet-b0-g8-gn", "efficientnet-blur-b0", "efficientnet-lite0",
    "efficientnet-es", "efficientnetv2-rw-t", "tf-efficientnetv2-b0", "test-efficientnet", "test-efficientnet-gn",
    "test-efficientnet-ln", "mobilenetv1-100", "mobilenetv2-050", "mobilenetv3-small-100", "mobilenetv3-rw",
    "tf-mobilenetv3-small-minimal-100", "mobilenetv4-conv-small", "mobilenetv4-conv-aa-medium", "mnasnet-small",
    "semnasnet-075", "fbnetc-100", "fbnetv3-b", "hardcorenas-a", "lcnet-050", "tinynet-e", "spnasnet-100",
    "mobilenet-edgetpu-v2-xs",
]  # fmt: skip


def compare(name: str, theirs: nn.Module, layout: str) -> None:
    """Their weights into ours and back: equal outputs in float64, and the very same state dict."""
    peers.randomize_norms(theirs.double().eval())
    ours = build_model(name, num_classes=10).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import_weights(ours, theirs.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(ours(images), theirs(images)) < 1e-9
    back = export_weights(ours, layout)  # type: ignore[arg-type]
    state = theirs.state_dict()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_weights(name: str) -> None:
    torch.manual_seed(0)
    compare(name, getattr(torchvision.models, TORCHVISION[name])(num_classes=10), "torchvision")


@pytest.mark.parametrize("name", TIMM)
def test_timms_weights(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    compare(name, timm.create_model(name.replace("-", "_"), num_classes=10), "timm")


def test_from_torchvision_to_timm_through_ours() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v3_small(num_classes=10).double().eval()
    ours = build_model("mobilenet-v3-small", num_classes=10)
    import_weights(ours.double(), theirs.state_dict())
    other = timm.create_model("mobilenetv3_small_100", num_classes=10, bn_eps=1e-3).double().eval()
    other.load_state_dict(export_weights(ours, "timm"))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert relative_error(other(images), theirs(images)) < 1e-9


@pytest.mark.parametrize("wrap", [
    lambda state: {"state_dict": state}, lambda state: {"model": state, "epoch": 3},
    lambda state: {"model": {}, "model_ema": {"n_averaged": torch.tensor(7), **{f"module.{k}": v for k, v in state.items()}}},
    lambda state: {f"module.{key}": value for key, value in state.items()},
])  # fmt: skip
def test_wrapped_checkpoints(wrap: object) -> None:
    source, target = build_model("tinynet-e", num_classes=3), build_model("tinynet-e", num_classes=3)
    import_weights(target, wrap(export_weights(source, "timm")))  # type: ignore[operator]
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_another_number_of_classes_keeps_the_classifier_and_says_so() -> None:
    source, target = build_model("tinynet-e", num_classes=7), build_model("tinynet-e", num_classes=3)
    before = target.head.classifier.weight.clone()
    with pytest.warns(WeightsWarning, match="the file has 7 classes, the spec 3"):
        import_weights(target, source.state_dict())
    assert torch.equal(target.head.classifier.weight, before)
    assert torch.equal(target.stages[2][0].depthwise.conv.weight, source.stages[2][0].depthwise.conv.weight)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_other_image_channels(channels: int) -> None:
    source, target = build_model("tinynet-e"), build_model("tinynet-e", in_channels=channels)
    with pytest.warns(WeightsWarning, match=f"from 3 to {channels} input channels"):
        import_weights(target, source.state_dict())
    assert torch.equal(target.stem.conv.weight, adapt_in_channels(source.stem.conv.weight, channels))


def test_a_grey_image_gives_what_it_gave() -> None:
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    grey = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    expected = nn.functional.conv2d(grey.expand(1, 3, 9, 9), weight)
    for channels in (1, 3, 6, 9):
        found = nn.functional.conv2d(grey.expand(1, channels, 9, 9), adapt_in_channels(weight, channels))
        assert torch.allclose(found, expected)


def test_every_mistake_is_named_and_the_model_unchanged() -> None:
    state = export_weights(build_model("tinynet-e"), "timm")
    state["blocks.1.0.conv_dww.weight"] = state.pop("blocks.1.0.conv_dw.weight")
    state["bn1.bias"] = torch.zeros(3)
    model = build_model("tinynet-e")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError) as error:
        import_weights(model, state)
    text = str(error.value)
    assert "blocks.1.0.conv_dw.weight: missing, 48x1x3x3; nearest is blocks.1.0.conv_dww.weight, 48x1x3x3" in text
    assert (
        "blocks.1.0.conv_dww.weight: has no place in the network, 48x1x3x3; nearest is blocks.1.0.conv_dw.weight"
        in text
    )
    assert "bn1.bias has the shape 3; stem.norm.bias needs 32" in text
    assert len(error.value.problems) == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_eps_and_padding_that_differ_are_said() -> None:
    model = build_model("tf-efficientnet-b0", num_classes=10)
    theirs = torchvision.models.efficientnet_b0(num_classes=10)
    with pytest.warns(WeightsWarning) as found:
        import_weights(model, theirs.state_dict())
    texts = [str(warning.message) for warning in found]
    assert any("norms with eps 1e-05; the spec has 0.001" in text for text in texts)
    assert any("padding 'symmetric'; the spec has 'same'" in text for text in texts)


def test_files_hold_the_weights_and_the_spec(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = build_model("tinynet-e", num_classes=3)
    write_weights(export_weights(model), model.plan, tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    state = read_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        said = file.metadata()
    assert "name: tinynet-e" in said["spec"]
    assert (said["eps"], said["padding"], said["resolution"]) == ("1e-05", '"symmetric"', "106")


def test_a_file_rebuilds_its_network_alone(tmp_path: Path) -> None:
    model = build_model(load_spec("tinynet-e", {"head.num_classes": 3, "stages.1.kernel_size": 5})).eval()
    file = tmp_path / "w.safetensors"
    write_weights(export_weights(model, "timm"), model.plan, file)
    again = build_model(file).eval()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(image), model(image))
    assert load_spec(file) == model.plan.spec
    maps = build_model(str(file), features_only=True).eval()(image)
    assert torch.equal(maps[-1], model.forward_intermediates(image, 1, intermediates_only=True)[0])
    with pytest.warns(WeightsWarning, match="the file has 3 classes, the spec 7"):
        assert build_model(file, num_classes=7).num_classes == 7


def test_a_file_written_for_another_eps_is_said(tmp_path: Path) -> None:
    model = build_model("tinynet-e")
    write_weights(export_weights(model), model.plan, tmp_path / "w.safetensors")
    other = build_model(load_spec("tinynet-e", {"norm.eps": 1e-3, "padding": "same"}))
    with pytest.warns(WeightsWarning) as found:
        load_weights(other, tmp_path / "w.safetensors")
    texts = [str(warning.message) for warning in found]
    assert any("was written for eps 1e-05; the spec has 0.001" in text for text in texts)
    assert any("was written for padding symmetric; the spec has same" in text for text in texts)


@pytest.mark.parametrize("said", [None, {}, {"spec": "name: x\nresolution: [\n"}, {"spec": "extends: ../../x.yaml"}])
def test_a_file_without_a_good_spec_is_refused(said: dict[str, str] | None, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", said)
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 20)
    for name in ("w.safetensors", "broken.safetensors", "none.safetensors"):
        with pytest.raises(ConfigError, match=name):
            load_spec(tmp_path / name)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("canary"),))  # type: ignore[return-value]


def test_a_pickle_that_wants_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "args": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "short.safetensors").write_bytes(b"\x10")
    for name in ("evil.pth", "old.pth", "text.pth", "short.safetensors", "none.pth"):
        with pytest.raises(ConfigError, match=name):
            read_weights(tmp_path / name)
    assert not (tmp_path / "canary").exists()


def test_the_command_converts(tmp_path: Path) -> None:
    theirs = torchvision.models.mnasnet0_5(num_classes=4)
    torch.save({"model": theirs.state_dict()}, tmp_path / "in.pth")
    out = tmp_path / "out.safetensors"
    arguments = ["mnasnet0-5", "--num-classes", "4", "--weights", str(tmp_path / "in.pth"), "--save-weights", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--layout", "timm"])
    assert result.exit_code == 0, result.output
    assert "conv_stem.weight" in read_weights(out)
    assert CliRunner().invoke(app, arguments).exit_code == 2  # it is not overwritten


def test_the_command_takes_a_file_that_carries_its_spec(tmp_path: Path) -> None:
    file, out = tmp_path / "w.safetensors", tmp_path / "timm.safetensors"
    model = build_model("tinynet-e", num_classes=4)
    write_weights(export_weights(model), model.plan, file)
    arguments = [str(file), "--save-weights", str(out), "--layout", "timm", "--weights-layout", "effnet_builder"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert torch.equal(read_weights(out)["conv_stem.weight"], model.stem.conv.weight)


@pytest.mark.filterwarnings("always::effnet_builder.WeightsWarning")
def test_the_command_compares_with_a_peer() -> None:
    def compared(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*arguments])
        return result.exit_code, result.output

    code, text = compared("mobilenet-v3-small", "--compare-weights", "torchvision")
    assert code == 0
    assert "torchvision mobilenet_v3_small: 244 tensors copied; outputs differ by " in text
    code, text = compared("mobilenetv3-small-100", "--compare-weights", "torchvision:mobilenet_v3_small")
    assert code == 1
    assert "belong to norms with eps 0.001; the spec has 1e-05" in text
    assert "not the same network" in text
    code, text = compared("mobilenet-v3-small", "--compare-weights", "torchvision:mobilenet_v3_smal")
    assert code == 2
    assert "has no network 'mobilenet_v3_smal'; did you mean 'mobilenet_v3_small'?" in text
    assert compared("mobilenet-v3-small", "--compare-weights", "keras")[0] == 2


def test_a_flipped_bit_in_a_file_of_ours_is_noticed(tmp_path: Path) -> None:
    """safetensors itself notices none: its tensors carry no sum."""
    model = build_model("efficientnet-pico")
    write_weights(model.state_dict(), model.plan, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    for at in (len(content) // 2, len(content) - 1):
        (tmp_path / "w.safetensors").write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        with pytest.raises(ConfigError, match="are not those that were written"):
            load_weights(model, tmp_path / "w.safetensors")
