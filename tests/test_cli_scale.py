"""`scale-arch` as a person uses it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from effnet_builder import Plan, analyze, load_spec, resolve
from effnet_builder.cli.scale import app
from effnet_builder.models.latency import Latency, measure_latency

pytestmark = pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")


def scale_arch(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_fit_shows_the_step_and_what_binds() -> None:
    result = scale_arch("efficientnet-b0", "--fit", "macs=1G,params=10M")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "efficientnet-b0, rule compound (alpha 1.2, beta 1.1, gamma 1.15), macs of at most 1.000 G and params of at "
        "most 10.00 M"
    )
    assert [line.split()[0] for line in lines[4:7]] == ["below", "fits", "above"]
    assert lines[5].split()[1:6] == ["1.03", "1.207", "1.103", "259", "9,120,826"]
    assert lines[8] == "macs: 993.8 M, 99.38% of the budget; it binds: the next variant takes 1.011 G"
    assert lines[9] == "params: 9.121 M, 91.21% of the budget"
    assert lines[10] == "Every phi from 1.029765 up to 1.039668 gives this network."


def test_a_fit_as_json_and_as_a_spec(tmp_path: Path) -> None:
    file = tmp_path / "one-gmac.yaml"
    result = scale_arch("efficientnet-b0", "--fit", "macs=1G", "--format", "json", "--save", file)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["name"], data["phi"], data["resolution"], data["params"]) == ("efficientnet-b0", 1.03, 259, 9120826)
    assert data["phi_interval"][0] <= data["phi"] < data["phi_interval"][1]
    assert data["below"]["macs"] < data["macs"] <= 1e9 < data["above"]["macs"]
    assert data["binding"] == ["macs"]
    spec = load_spec(file)
    assert spec.name == "one-gmac"
    assert "efficientnet-b0 at phi = 1.03, the largest with macs of at most 1.000 G; rule compound" in str(
        spec.description
    )
    total = analyze(resolve(spec)).total
    assert (total.params, total.macs, total.activations) == (data["params"], data["macs"], data["activations"])
    assert scale_arch("efficientnet-b0", "--fit", "macs=1G", "--save", file).exit_code == 2  # it is not overwritten


def test_a_rule_is_kept_by_the_saved_spec(tmp_path: Path) -> None:
    file = tmp_path / "fast.yaml"
    arguments = ["efficientnet-b4", "--fit", "macs=2G", "--rule", "fast", "--num-classes", "10", "--save", file]
    result = scale_arch(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    data, plan = json.loads(result.stdout), resolve(load_spec(file))
    assert analyze(plan).total.macs == data["macs"]
    assert plan.num_classes == 10
    assert plan.spec.rounding.resolution.divisor == 4


def test_a_table_along_phi_as_table_json_and_csv() -> None:
    rows = [line.split() for line in scale_arch("efficientnet-b0", "--phi", "0:2:1").stdout.splitlines()[2:5]]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    data = json.loads(scale_arch("efficientnet-b0", "--phi", "0:2:1", "--format", "json", "--batch", 64).stdout)
    assert [each["params"] for each in data] == [5288548, 9109994, 12255408]
    analysis = analyze(resolve(load_spec("efficientnet-b0")))
    assert data[0]["memory"] == 3 * analysis.weight_bytes + 64 * analysis.training_bytes_per_image
    text = scale_arch("efficientnet-b0", "--phi", "0:2:1", "--format", "csv", "--batch", 64).stdout
    assert [int(row["macs"]) for row in csv.DictReader(text.splitlines())] == [each["macs"] for each in data]


def test_a_grid_and_its_front() -> None:
    arguments = ["mobilenetv2-100", "--sweep", "depth=1:2:0.5,width=0.5:1.5:0.5", "--format", "json"]
    grid, front = (json.loads(scale_arch(*arguments, *more).stdout) for more in ([], ["--pareto"]))
    assert [(each["depth"], each["width"]) for each in grid][:4] == [(1, 0.5), (1, 1), (1, 1.5), (1.5, 0.5)]
    assert len(grid) == 9
    assert 0 < len(front) <= 9
    assert all(each in grid for each in front)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --fit, --phi"),
        (["--phi", "0:1:1", "--train"], "--out and --train belong to --search"),
        (["--search", "--pareto"], "--pareto is of a table"),
        (["--search", "--step", "0"], "--step 0"),
        (["--fit", "macs=1G", "--phi", "0:1:1"], "give one of --fit, --phi"),
        (["--phi", "0:1:1", "--save", "x.yaml"], "--save writes the variant of --fit"),
        (["--fit", "macs=1G", "--pareto"], "--pareto is of a table"),
        (["--fit", "macs=1Q"], "--fit macs=1Q: macs=1Q: expected a number with k, M, G or T"),
        (["--fit", "macs=1k"], "no variant respects the budget: the smallest"),
        (["--fit", "macs=1G", "--fit", "macs=2G"], "macs is given twice"),
        (["--fit", "macs=1G", "--rule", "wide"], "--rule wide: expected compound, depth"),
        (["--fit", "macs=1G", "--set", "scaling.beta=0.9"], "scaling.beta = 0.9: below 1"),
        (["--fit", "latency=5ms@device=cuda"], "there is no CUDA device here"),
        (["--phi", "0:6"], "--phi 0:6: expected a number, or from:to:step"),
        (["--phi", "0:40:20"], "phi = 40: "),
        (["--phi", "0:1:0.000001"], "1,000,001 steps; at most 200,000"),
        (["--sweep", "dept=1:2:1"], "--sweep dept=1:2:1: 'dept' is no dimension; did you mean 'depth'?"),
        (["--phi", "0:1:1", "--batch", "0"], "--batch"),
        (["--phi", "0:1:1", "--format", "xml"], "csv"),
    ],
)
def test_mistakes_exit_with_2(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = scale_arch("efficientnet-b0", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_latency_is_measured_and_says_how() -> None:
    found = measure_latency(resolve(load_spec("efficientnet-pico")), batch=2)
    assert 0 < found.quartiles[0] <= found.median <= found.quartiles[1]
    assert found.runs >= 9
    assert f"{found.runs} runs, batch size 2, fp32, cpu, {torch.get_num_threads()} threads" in str(found)


@pytest.mark.parametrize(("noise", "said"), [(1e-3, False), (0.2, True)])
def test_noise_that_blurs_the_border_is_said(noise: float, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(plan: Plan, batch: int, device: str, precision: str) -> Latency:
        assert precision == "fp32"
        median = analyze(plan).total.macs * batch / 1e12
        return Latency(median, (median * (1 - noise), median * (1 + noise)), 50, batch, device, 2)

    monkeypatch.setattr("effnet_builder.models.latency.measure_latency", measure)
    result = scale_arch("efficientnet-b0", "--fit", "latency=2ms@batch=2,macs=5G")
    assert result.exit_code == 0, result.output
    assert "latency of at most 2 ms at batch size 2 on cpu and macs" in result.stdout
    assert "latency: 1.988 ms (quartiles" in result.stdout
    assert "50 runs, batch size 2, fp32, cpu, 2 threads), 99.38% of the budget; it binds" in result.stdout
    assert ("cannot be told apart" in result.stdout) == said
