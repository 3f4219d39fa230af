"""Networks as backbones: feature maps, dilation, classifiers, checkpointing and freezing, beside timm's."""

from __future__ import annotations

import copy

import peers
import pytest
import torch
from test_parity import relative_error
from torch import nn

from effnet_builder import FeatureNetwork, Network, build_model, import_weights, load_spec, resolve

timm = pytest.importorskip("timm")

FAMILIES = [
    "efficientnet-b0", "tf-efficientnetv2-b0", "efficientnet-es", "mobilenetv1-100", "mobilenetv2-050", "lcnet-050",
    "mobilenetv3-small-100", "mobilenetv4-conv-small", "efficientnet-blur-b0", "tinynet-e",
]  # fmt: skip


def pair(name: str, size: int = 64, **options: object) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """timm's network and ours with the same weights, in evaluation, and two images."""
    torch.manual_seed(0)
    theirs = timm.create_model(name.replace("-", "_"), num_classes=10, **options).double().eval()
    peers.randomize_norms(theirs)
    ours = build_model(name, num_classes=10, output_stride=options.get("output_stride"))  # type: ignore[call-overload]
    import_weights(ours.double().eval(), theirs.state_dict())
    return theirs, ours, torch.randn(2, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_timms(name: str) -> None:
    theirs, whole, images = pair(name)
    features = timm.create_model(name.replace("-", "_"), features_only=True).double().eval()
    features.load_state_dict(theirs.state_dict(), strict=False)
    ours = build_model(name, features_only=True).double().eval()
    import_weights(ours, theirs.state_dict())
    found, expected = ours(images), features(images)
    assert ours.feature_info.channels() == features.feature_info.channels()
    assert ours.feature_info.reduction() == features.feature_info.reduction()
    assert [relative_error(a, b) < 1e-9 for a, b in zip(found, expected, strict=True)] == [True] * len(found)
    # and all of it is known without building
    taps = resolve(load_spec(name), resolution=64).features
    assert [(tap.channels, tap.resolution, tap.reduction) for tap in taps] == [
        (x.shape[1], x.shape[2], 64 // x.shape[2]) for x in found
    ]
    assert [tap.path for tap in taps] == ours.feature_info.module_name()
    last, maps = whole.forward_intermediates(images)
    assert all(torch.equal(a, b) for a, b in zip(maps, found, strict=True))
    assert torch.equal(last, whole.forward_features(images))


def test_chosen_features() -> None:
    image = torch.randn(1, 3, 64, 64)
    torch.manual_seed(0)
    every = build_model("tinynet-e", features_only=True).eval()
    some = build_model("tinynet-e", features_only=True, out_indices=(3, 1)).eval()
    some.load_state_dict(every.state_dict(), strict=False)
    assert some.feature_info.reduction() == [16, 4]
    assert len(some.stages) < len(every.stages)  # nothing is built behind the last map that is asked for
    maps = every(image)
    assert all(torch.equal(a, b) for a, b in zip(some(image), (maps[3], maps[1]), strict=True))
    assert build_model("tinynet-e", features_only=True, out_indices=(-1,)).feature_info.reduction() == [32]
    with pytest.raises(
        ValueError, match=r"out_indices \[5\]: tinynet-e has the feature maps 0: .* 4: stages.6 \(1/32\)"
    ):
        build_model("tinynet-e", features_only=True, out_indices=(5,))


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["efficientnet-b0", "tf-efficientnetv2-b0", "mobilenetv2-050", "efficientnet-es"])
def test_output_stride_is_timms(name: str, output_stride: int) -> None:
    theirs, ours, images = pair(name, output_stride=output_stride)
    features = ours.forward_features(images)
    assert features.shape[-1] == 64 // output_stride
    assert relative_error(features, theirs.forward_features(images)) < 1e-9
    assert relative_error(ours(images), theirs(images)) < 1e-9
    assert ours.plan.features[-1].reduction == output_stride


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax"])
def test_pooling_is_timms(pool: str) -> None:
    theirs, ours, images = pair("mobilenetv3-small-100")
    theirs.reset_classifier(10, pool)
    classifier = copy.deepcopy(ours.get_classifier())
    ours.reset_classifier(10, pool)
    ours.get_classifier().load_state_dict(classifier.state_dict())
    theirs.get_classifier().load_state_dict(classifier.state_dict())
    assert relative_error(ours(images), theirs(images)) < 1e-9
    assert relative_error(ours.forward_head(ours.forward_features(images), pre_logits=True), theirs.forward_head(
        theirs.forward_features(images), pre_logits=True)) < 1e-9  # fmt: skip


def test_the_numbers_that_timms_users_read() -> None:
    for name in ("efficientnet-b0", "mobilenetv3-small-100", "mobilenetv1-100"):
        theirs, ours, _ = pair(name)
        for attribute in ("num_classes", "num_features", "head_hidden_size"):
            assert getattr(ours, attribute) == getattr(theirs, attribute)
        found = [(tap["num_chs"], tap["reduction"]) for tap in ours.feature_info]
        assert found == [(tap["num_chs"], tap["reduction"]) for tap in theirs.feature_info]


def test_reset_classifier() -> None:
    model = build_model("tinynet-e").double().train()
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    model.reset_classifier(7)
    assert model(image).shape == (2, 7)
    assert model.num_classes == model.plan.num_classes == 7
    assert model.get_classifier().weight.dtype == torch.float64
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(image).shape == (2, model.head_hidden_size)
    without = build_model("tinynet-e", num_classes=0)
    assert without.num_classes == 0
    assert without.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("stages", [None, [0, 3, 4]])
def test_checkpointing_changes_only_the_memory(stages: list[int] | None) -> None:
    torch.manual_seed(0)
    plain = build_model(load_spec("tinynet-e", {"drop_path.rate": 0.3, "head.dropout": 0.0})).double().train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing(stages=stages)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    kept: list[int] = []
    for model in (plain, saving):
        torch.manual_seed(1)
        elements = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal elements
            elements += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(images).square().mean()
        kept.append(elements)
        loss.backward()
    assert kept[1] < 0.9 * kept[0]
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name  # type: ignore[arg-type]
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), name
    saving.set_grad_checkpointing(False)
    assert not saving._checkpointed
    with pytest.raises(ValueError, match="no stage 9: there are 0 to 6"):
        saving.set_grad_checkpointing(stages=[9])


def test_freezing_holds_weights_and_statistics() -> None:
    model = build_model("tinynet-e").train()
    model.freeze(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()
    model(torch.randn(4, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not [name for name in changed if name.startswith(("stem", "stages.0.", "stages.1."))]
    assert {name for name in before if name.startswith("stages.2.")} <= changed
    model.freeze(-1)
    model.train()
    assert all(module.training for module in model.modules())
    with pytest.raises(ValueError, match="cannot freeze 8 stages: there are 7"):
        model.freeze(8)


def test_timm_creates_our_networks() -> None:
    import effnet_builder.timm_models  # noqa: F401

    options = {"num_classes": 7, "in_chans": 1, "drop_rate": 0.4, "drop_path_rate": 0.2, "global_pool": "max"}
    model = timm.create_model("efficientnet-b0", output_stride=16, **options)
    assert isinstance(model, Network)
    assert (model.num_classes, model.plan.in_channels, model.plan.head.dropout) == (7, 1, 0.4)
    assert (model.plan.spec.drop_path.rate, model.plan.head.pool, model.plan.spec.output_stride) == (0.2, "max", 16)
    features = timm.create_model("efficientnet-b0", features_only=True, out_indices=(1, 2))
    assert isinstance(features, FeatureNetwork)
    assert features.feature_info.channels() == [24, 40]
    assert "mobilenetv4-conv-small" in timm.list_models("mobilenetv4-*")
    assert not isinstance(timm.create_model("efficientnet_b0"), Network)  # theirs is as it was
    with pytest.raises(ValueError, match="no pretrained weights of efficientnet-b0"):
        timm.create_model("efficientnet-b0", pretrained=True)
    with pytest.raises(TypeError, match="unknown drop_block; there are num_classes, in_chans"):
        timm.create_model("efficientnet-b0", drop_block=1)
