"""A person's mistakes in a spec: every one located, with what is allowed and the nearest valid name."""

from __future__ import annotations

import copy
import string
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writing import WriteYaml

from effnet_builder import ConfigError, load_spec, resolve
from effnet_builder.arch.spec import ArchSpec
from effnet_builder.config import node_of, validate
from effnet_builder.config.errors import Mark, Path, format_path
from effnet_builder.config.reading import Document
from effnet_builder.config.writing import dump_yaml

BASE = """\
name: mine
resolution: 64
stem: {out_channels: 16}
stages:
  - {type: mbconv, expand_ratio: 1, out_channels: 8}
  - {type: mbconv, expand_ratio: 6, out_channels: 16, stride: 2, se_ratio: 0.25}
head: {out_channels: 64}
"""


def lines(text: str, write_yaml: WriteYaml) -> list[str]:
    path = write_yaml(text)
    with pytest.raises(ConfigError) as error:
        resolve(load_spec(path))
    return [line.replace(f"{path}:", "") for line in str(error.value).splitlines()]


def test_all_mistakes_at_once_in_the_order_of_the_file(write_yaml: WriteYaml) -> None:
    text = """\
name: broken
resolution: 1e3
stem: {out_channels: 16, kernal_size: 3}
stages:
  - {type: mbconv, expand_ratio: 1, out_channels: 8, stride: 3}
  - {type: mbconvv, expand_ratio: 6, out_channels: no, kernel_size: 4}
head: {out_channels: 64, dropout: 1.5}
activation: sillu
"""
    assert lines(text, write_yaml) == [
        "2:13 resolution = 1000.0: expected a whole number from 1 to 65,536; write 1000",
        "3:26 stem.kernal_size: unknown key; did you mean 'kernel_size'?",
        "5:62 stages[0].stride = 3: expected 1 or 2",
        "6:12 stages[1].type = mbconvv: expected 'mbconv', 'depthwise_separable', 'fused_mbconv', 'conv' or "
        "'universal_inverted_bottleneck'; did you mean 'mbconv'?",
        "6:52 stages[1].out_channels = no: expected a whole number from 1 to 1,000,000; "
        "write true or false, or put the text in quotes",
        "6:69 stages[1].kernel_size = 4: expected an odd number, so that the kernel has a centre",
        "7:35 head.dropout = 1.5: expected a number from 0 below 1",
        "8:13 activation = sillu: expected 'relu', 'relu6', 'silu', 'hardswish' or 'gelu'; did you mean 'silu'?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("stages:", "stagez:", "4:1 stagez: unknown key; did you mean 'stages'?"),
        ("name: mine\n", "", "1:1 name: missing; expected a name of at most 100 characters (^[A-Za-z0-9][A-Za-z0-9_.+-]*$)"),
        ("name: mine", "name: ../mine", "1:7 name = ../mine: expected a name of at most 100 characters (^[A-Za-z0-9][A-Za-z0-9_.+-]*$)"),
        ("name: mine", "name: 3", "1:7 name = 3: expected a name of at most 100 characters (^[A-Za-z0-9][A-Za-z0-9_.+-]*$)"),
        ("{out_channels: 64}", "64", "7:7 head = 64: expected a mapping with order, out_channels, bias, "
         "pool, dropout, num_classes, activation, scale_width"),
        ("{out_channels: 64}", "", "7:6 head = null: expected a mapping with order, out_channels, bias, "
         "pool, dropout, num_classes, activation, scale_width"),
        ("out_channels: 64", "out_channels: 64, scale_width: 1", "7:39 head.scale_width = 1: expected true, false or 'up'"),
        ("out_channels: 64", "out_channels: true", "7:22 head.out_channels = true: expected a whole number from 1 to "
         "1,000,000"),
        ("out_channels: 64", "out_channels: -8", "7:22 head.out_channels = -8: expected a whole number from 1 to "
         "1,000,000"),
        ("out_channels: 64", "out_channels: 99999999", "7:22 head.out_channels = 99999999: at most "
         "1,000,000 are allowed (--limit channels=N raises it)"),
        ("resolution: 64", "resolution: 64\npadding: valid", "3:10 padding = valid: expected 'symmetric' or 'same'"),
        ("resolution: 64", "resolution: 64\npublished: {top1: 77, sauce: x}", "3:23 published.sauce: unknown key; did "
         "you mean 'source'?"),
        ("resolution: 64", "resolution: 64\nscaling: {phi: .nan}", "3:16 scaling.phi = .nan: expected a number from "
         "-100 to 100; expected a finite number"),
        ("resolution: 64", "resolution: 64\nqqq: 1", "3:1 qqq: unknown key; allowed are activation, anti_alias, "
         "description, drop_path, head, in_channels, init, name, norm, normalization, output_stride, padding, "
         "published, resolution, rounding, scaling, source, squeeze_excite, stages, stem"),
        ("resolution: 64", "resolution: 64\nsource: 1905.11946", "3:9 source = 1905.11946: expected text of at most "
         "2000 characters"),
        ("expand_ratio: 1,", "expand_ratio: 0.5,", "5:34 stages[0].expand_ratio = 0.5: expected a number from 1 to 100"),
        ("expand_ratio: 1,", "", "5:5 stages[0].expand_ratio: missing; expected a number from 1 to 100, or expand_channels"),
        ("type: mbconv, expand_ratio: 6", "expand_ratio: 6", "6:5 stages[1].type: missing; expected 'mbconv', 'depthwise_separable', 'fused_mbconv', 'conv' or 'universal_inverted_bottleneck'"),
        # what shows only after scaling is located too
        ("expand_ratio: 6", "expand_ratio: 2.33", "6:34 stages[1].expand_ratio = 2.33: 18.64 is not a whole number "
         "after scaling, and its rounding mode is 'none'"),
        ("resolution: 64", "resolution: 2", "2:13 resolution = 2: too small: stages[1] would stride over a map of 1 px; "
         "use stride 1 there or a larger resolution"),
        ("resolution: 64", "resolution: 64\nscaling: {resolution: 1}", "3:23 scaling.resolution = 1.0: too small: stem "
         "would stride over a map of 1 px; use stride 1 there or a larger resolution"),
        ("resolution: 64", "resolution: 64\nscaling: {phi: 2}", "3:16 scaling.phi = 2.0: the spec has no alpha, beta or "
         "gamma to raise to phi"),
        ("resolution: 64", "resolution: 64\nscaling: {alpha: 1e-9, phi: -100}", "3:18 scaling.alpha = 1e-09: expected a "
         "number from 0.1 to 10"),
        ("resolution: 64", "resolution: '64'", "2:13 resolution = 64: expected a whole number from 1 to 65,536; write it "
         "without quotes"),
        ("stride: 2", "stride: true", "6:63 stages[1].stride = true: expected 1 or 2"),
        ("stride: 2", "stride: 2.0", "6:63 stages[1].stride = 2.0: expected 1 or 2"),
        ("resolution: 64", "resolution: 64\nscaling: {gamma: 1.5, phi: 80}", "3:28 scaling.phi = 80.0: an image of "
         "7.82493e+15 px; at most 65,536 are allowed (--limit resolution=N raises it)"),
        ("resolution: 64", "resolution: 64\nscaling: {gamma: 2, phi: -8}", "3:26 scaling.phi = -8.0: an image of 0.25 "
         "px; at least 1 is needed"),
        ("resolution: 64", "resolution: 64\nscaling: {alpha: 10, phi: 100}", "3:27 scaling.phi: 2e+100 blocks; at most "
         "1,000 are allowed (--limit blocks=N raises it)"),
        ("resolution: 64", "resolution: 64\nscaling: {width: 9.99e99}", "3:18 scaling.width = 9.99e+99: at most "
         "100 are allowed (--limit multiplier=N raises it)"),
        ("out_channels: 16, stride: 2, se_ratio: 0.25}\nhead: {out_channels: 64}",
         "out_channels: 1000000}\nhead: {out_channels: 1000000}",
         "5:3 stages: 1,001,048,001,520 weights; at most 1,000,000,000,000 are allowed (--limit weights=N raises it)"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")
def test_one_mistake(write_yaml: WriteYaml, old: str, new: str, line: str) -> None:
    assert old in BASE
    found = lines(BASE.replace(old, new, 1), write_yaml)
    assert found == [line]


def test_phi_that_needs_petabytes_is_refused_by_every_limit_it_breaks() -> None:
    with pytest.raises(ConfigError) as error:
        resolve(load_spec("efficientnet-b0"), phi=90)
    found = str(error.value)
    assert "px; at most 65,536 are allowed" in found
    assert "channels after scaling; at most 1,000,000 are allowed" in found
    assert "blocks; at most 1,000 are allowed" in found


def test_empty_stages(write_yaml: WriteYaml) -> None:
    text = BASE[: BASE.index("stages:")] + "stages: []\n" + BASE[BASE.index("head:") :]
    assert lines(text, write_yaml) == ["4:9 stages = a list: expected a list of 1 to 200 items"]


def test_many_mistakes_are_counted_not_all_shown() -> None:
    data = {f"key{i}": i for i in range(400)}
    with pytest.raises(ConfigError) as error:
        validate(ArchSpec, Document(node_of(data, Mark("f.yaml", 1, 1))))
    assert len(error.value.problems) == 405  # and five keys missing
    assert str(error.value).splitlines()[-1] == "... and 385 more"
    assert len(str(error.value)) < 20_000


def test_control_characters_do_not_reach_the_terminal(write_yaml: WriteYaml) -> None:
    [line] = lines(BASE.replace("mine", '"\\e[31mred"'), write_yaml)
    assert line.isprintable()


def paths(data: object, path: Path = ()) -> Iterator[Path]:
    """Every place of a document."""
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from paths(child, (*path, key))


def changed(data: Any, path: Path, change: Any) -> Any:
    """A copy of the document, in which `change(parent, key)` was called on the parent of a place."""
    data = copy.deepcopy(data)
    parent = data
    for part in path[:-1]:
        parent = parent[part]
    change(parent, path[-1])
    return data


# Together they have every type of row, head and norm, and stages of several rows.
SPECS = [
    load_spec(name).model_dump(mode="json", exclude_unset=True)
    for name in ("efficientnet-b0", "efficientnet-b3-gn", "efficientnetv2-s", "mobilenetv3-large-100", "lcnet-100",
                 "mobilenetv4-conv-small", "mobilenet-edgetpu-v2-s", "mobilenetv1-100", "efficientnet-es")
]  # fmt: skip
PLACES = [(spec, place) for spec in SPECS for place in paths(spec)]


def test_the_mutated_specs_have_every_row_type() -> None:
    types = {
        row["type"]
        for spec in SPECS
        for stage in spec["stages"]
        for row in (stage if isinstance(stage, list) else [stage])
    }
    assert types == {"mbconv", "depthwise_separable", "fused_mbconv", "conv", "universal_inverted_bottleneck"}


@settings(max_examples=100)
@given(where=st.sampled_from([pair for pair in PLACES if isinstance(pair[1][-1], str)]), data=st.data())
def test_every_misspelt_key_is_refused_and_located(
    write_yaml_text: Any, where: tuple[Any, Path], data: st.DataObject
) -> None:
    spec, place = where
    key = str(place[-1])
    at = data.draw(st.integers(0, len(key) - 1))
    typo = key[:at] + data.draw(st.sampled_from(string.ascii_lowercase)) + key[at + data.draw(st.integers(0, 1)) :]
    if typo in data_keys():
        return
    broken = changed(spec, place, lambda parent, old: parent.__setitem__(typo, parent.pop(old)))
    with pytest.raises(ConfigError) as error:
        load_spec(write_yaml_text(dump_yaml(broken)))
    wanted = format_path((*place[:-1], typo))
    assert any(f" {wanted}: unknown key" in str(problem) for problem in error.value.problems)
    assert all(problem.mark is not None and problem.mark.line for problem in error.value.problems)


def value_at(spec: Any, place: Path) -> Any:
    for part in place:
        spec = spec[part]
    return spec


WORDS = [
    (spec, place)
    for spec, place in PLACES
    if isinstance(value_at(spec, place), str) and place[-1] not in ("name", "description", "source")
]


@settings(max_examples=60)
@given(where=st.sampled_from(WORDS), data=st.data())
def test_every_misspelt_word_is_refused_and_located(write_yaml_text: Any, where: Any, data: st.DataObject) -> None:
    spec, place = where
    word = value_at(spec, place)
    at = data.draw(st.integers(0, len(word) - 1))
    typo = word[:at] + data.draw(st.sampled_from("qxz")) + word[at + data.draw(st.integers(0, 1)) :]
    broken = changed(spec, place, lambda parent, key: parent.__setitem__(key, typo))
    with pytest.raises(ConfigError) as error:
        load_spec(write_yaml_text(dump_yaml(broken)))
    found = [problem for problem in error.value.problems if problem.path == place]
    assert len(found) == 1, error.value
    assert f"{word!r}" in str(found[0])  # among what is allowed
    assert found[0].mark is not None
    assert found[0].mark.line
    if len(word) > 4:
        assert f"did you mean {word!r}?" in str(found[0])


def test_a_key_of_another_type_is_not_offered() -> None:
    with pytest.raises(ConfigError) as error:
        load_spec("efficientnet-lite0", {"stages[0]": {"type": "conv", "out_channels": 8, "se_ratio": 0.25}})
    (problem,) = error.value.problems
    assert problem.message.startswith(
        "unknown key; allowed are activation, group_size, kernel_size, norm, out_channels"
    )
    assert "se_ratio" not in problem.message


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just([]), st.just({}),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=100)
@given(where=st.sampled_from(PLACES), junk=JUNK)
@pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")
def test_any_value_anywhere_works_or_is_refused(where: tuple[Any, Path], junk: object) -> None:
    spec, place = where
    broken = changed(spec, place, lambda parent, key: parent.__setitem__(key, junk))
    try:
        resolve(validate(ArchSpec, Document(node_of(broken, Mark("f.yaml", 1, 1)))))
    except ConfigError as error:
        assert error.problems
        assert all(len(line) < 500 for line in str(error).splitlines())


@pytest.fixture(scope="module")
def write_yaml_text(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("typos") / "typo.yaml"

    def write(text: str) -> Any:
        path.write_text(text)
        return path

    return write


def data_keys() -> set[str]:
    """Every key that some part of a spec has: a typo that is another key is no typo."""
    schema = ArchSpec.model_json_schema()
    keys = set(schema["properties"]) | {"extends"}
    for part in schema["$defs"].values():
        keys |= set(part.get("properties", {}))
    return keys
