"""The search for alpha, beta and gamma: the grid, its specs, and a study that several processes share."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import optuna
import pytest
import torch
from folders import make_folder
from test_boundaries import modules_after
from typer.testing import CliRunner
from writing import WriteYaml

from effnet_builder import ConfigError, analyze, load_spec, resolve, search
from effnet_builder.arch.candidates import Candidate, Grid, candidates, grid_points
from effnet_builder.arch.plan import Plan
from effnet_builder.cli.compose import validation_accuracy
from effnet_builder.cli.search import search_candidates, search_train
from effnet_builder.cli.train import app, choose_recipe, recipe_changes
from effnet_builder.search import SharedStudy, open_study
from effnet_builder.train.data import load_dataset

TINY = "extends: efficientnet-pico\nname: tiny\nscaling: {width: 0.25, depth: 0.1, resolution: 8}\n"
PAPER = (1.2, 1.1, 1.15)  # Tan & Le 2019, section 3.3
DRIVER = """
import sys, typer
from effnet_builder import load_spec, search
from effnet_builder.cli.console import reporting
from effnet_builder.cli.search import search_train
search.BEAT, search.SILENCE = 0.2, 2.0
try:
    with reporting("nothing was searched."):
        search_train(load_spec(sys.argv[1]), step=float(sys.argv[2]), tolerance=0.1, epochs=1, study=sys.argv[3])
except typer.Exit as done:
    sys.exit(done.exit_code)
"""


def parts(plan: Plan) -> tuple[object, ...]:
    """What makes a network of a family: resolution, widths and repeats."""
    groups = [group for stage in plan.stages for group in stage.groups]
    rows = tuple((len(group.blocks), group.blocks[-1].convs[-1].out_channels) for group in groups)
    return plan.resolution, plan.stem.out_channels, rows, plan.head.hidden_size


def point(one: Candidate) -> tuple[float, float, float]:
    return one.alpha, one.beta, one.gamma


# The grid


@pytest.mark.parametrize(("step", "tolerance"), [("0.05", "0.1"), ("0.1", "0.05"), ("0.2", "0.1"), ("0.1", "0")])
def test_the_grid_is_what_exact_arithmetic_finds(step: str, tolerance: str) -> None:
    axis = [1 + i * Fraction(step) for i in range(60)]
    near = [
        (float(a), float(b), float(g))
        for a in axis
        for b in axis[:30]
        for g in axis[:30]
        if abs(a * b**2 * g**2 - 2) <= 2 * Fraction(tolerance)
    ]
    assert sorted(grid_points(float(step), float(tolerance))) == sorted(near)
    assert (2.0, 1.0, 1.0) in near


def test_the_paper_s_point_is_in_the_grid_of_b0() -> None:
    b0 = load_spec("efficientnet-b0")
    grid = candidates(b0)
    paper = next(one for one in grid.candidates if PAPER in (point(one), *one.twins))
    assert tuple(paper.plan.rows) == tuple(resolve(b0, phi=1).rows)
    assert (paper.params, paper.macs, paper.resolution) == (9_109_994, 992_629_472, 258)


@pytest.mark.parametrize("name", ["efficientnet-b0", "mobilenet-v3-large"])
def test_twins_are_the_same_network_and_candidates_are_not(name: str) -> None:
    spec = load_spec(name)
    grid = candidates(spec, step=0.1)
    for one in grid.candidates:
        for alpha, beta, gamma in (point(one), *one.twins):
            rule = {"scaling.alpha": alpha, "scaling.beta": beta, "scaling.gamma": gamma}
            assert parts(resolve(spec.vary(rule), phi=1)) == parts(one.plan)
            assert abs(one.growth - 2) <= abs(alpha * beta**2 * gamma**2 - 2) + 1e-9
    assert len({parts(one.plan) for one in grid.candidates}) == len(grid.candidates)
    found = [every for one in grid.candidates for every in (point(one), *one.twins)]
    assert sorted(found) == sorted(grid_points(0.1, 0.1))
    assert (grid.points, grid.refused) == (len(found), 0)


def test_explicit_multipliers_are_what_grows() -> None:
    pico = load_spec("efficientnet-pico")
    for one in candidates(pico, step=0.2).candidates:
        same = resolve(pico, depth=0.5 * one.alpha, width=0.35 * one.beta, resolution=32 * one.gamma)
        assert tuple(one.plan.rows) == tuple(same.rows)


def test_a_point_without_a_network_is_counted(write_yaml: WriteYaml) -> None:
    whole = (
        "extends: efficientnet-b0\nname: whole\nresolution: 32\nrounding: {resolution: {mode: none, divisor: null}}\n"
    )
    grid = candidates(load_spec(write_yaml(whole)))
    broken = [gamma for _, _, gamma in grid_points(0.05, 0.1) if not (32 * gamma).is_integer()]
    assert grid.refused == len(broken) > 0
    assert all((32 * one.gamma).is_integer() for one in grid.candidates)


def test_a_grid_without_any_network_is_the_first_mistake(write_yaml: WriteYaml) -> None:
    exact = ", ".join(f"{name}: {{mode: none, divisor: null, limit: null}}" for name in ("stem", "stages", "head"))
    exact += ", resolution: {mode: none, divisor: null}, repeats: {mode: none, divisor: null}"
    spec = load_spec(write_yaml(f"extends: efficientnet-b0\nname: exact\nrounding: {{{exact}}}\n"))
    with pytest.raises(ConfigError, match="is not a whole number after scaling"):
        candidates(spec, step=0.4)


@pytest.mark.parametrize(
    ("step", "tolerance", "message"),
    [
        (0, 0.1, "--step 0: expected a number from 0.001 to 1"),
        (-0.1, 0.1, "--step -0.1: expected"),
        (float("nan"), 0.1, "--step nan: expected"),
        (float("inf"), 0.1, "--step inf: expected"),
        (0.01, 0.1, "--step 0.01: a grid of 290,521 points; at most 100,000 are allowed"),
        (0.9, 0.01, "--step 0.9: no point of the grid is within 1% of the growth 2"),
        (0.1, -0.1, "--tolerance -0.1: expected a number from 0 below 0.5"),
        (0.1, 0.5, "--tolerance 0.5: expected"),
        (0.1, float("nan"), "--tolerance nan: expected"),
    ],
)
def test_absurd_grids_are_refused(step: float, tolerance: float, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        candidates(load_spec("efficientnet-b0"), step=step, tolerance=tolerance)
    assert str(caught.value).startswith(message)


# The specs of the grid


def test_written_specs_load_as_the_same_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("efficientnet-b0", "efficientnet-pico"):
        spec = load_spec(name)
        search_candidates(spec, tmp_path / name, 0.1, 0.1)
        grid = candidates(spec, step=0.1)
        assert len(os.listdir(tmp_path / name)) == len(grid.candidates)
        for one in grid.candidates:
            file = tmp_path / name / f"{one.spec.name}.yaml"
            again = resolve(load_spec(file))
            assert tuple(again.rows) == tuple(one.plan.rows)
            assert (analyze(again).total.params, analyze(again).total.macs) == (one.params, one.macs)
            assert f"# {name} grown by {one}" in file.read_text()
            assert f"{one.params:,}" in capsys.readouterr().out or one is not grid.candidates[0]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    pico = load_spec("efficientnet-pico")
    (tmp_path / "efficientnet-pico-a2-b1-g1.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="efficientnet-pico-a2-b1-g1.yaml exists already, and is not overwritten"):
        search_candidates(pico, tmp_path, 0.2, 0.1)
    assert os.listdir(tmp_path) == ["efficientnet-pico-a2-b1-g1.yaml"]


def test_the_table_shows_every_point_of_the_grid(capsys: pytest.CaptureFixture[str]) -> None:
    search_candidates(load_spec("efficientnet-b0"), None, 0.05, 0.1)
    lines = capsys.readouterr().out.splitlines()
    cells = "1.25 1.1 1.15 2.000 258 9,109,994 992.6 M 1.2/1.1/1.15 1.15/1.1/1.15"
    assert cells in [" ".join(line.split()) for line in lines]
    assert lines[-1] == "efficientnet-b0: 108 networks at 221 points of the grid"


def test_candidates_need_neither_torch_nor_optuna() -> None:
    code = "from effnet_builder import load_spec; from effnet_builder.cli.search import search_candidates\n"
    loaded = modules_after(code + "search_candidates(load_spec('efficientnet-b0'), None, 0.1, 0.1)")
    assert not loaded & {"torch", "numpy", "optuna", "sqlalchemy"}


# The study, with a stand-in for training


@pytest.fixture
def grid(write_yaml: WriteYaml) -> Grid:
    return candidates(load_spec(write_yaml(TINY)), step=0.2)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BEAT", 0.1)
    monkeypatch.setattr(search, "SILENCE", 1.0)
    monkeypatch.setattr(search, "_POLL", 0.05)


def share(file: Path, grid: Grid, say: Callable[[str], None] = print) -> SharedStudy:
    return SharedStudy(open_study(str(file), "s", {"spec": "tiny"}), grid.candidates, say)


def trials(file: Path, name: str = "tiny-digits") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{file}").trials


def test_ranking_is_by_accuracy_then_macs_with_diverged_last(tmp_path: Path, grid: Grid) -> None:
    results = dict(zip(map(point, grid.candidates), [0.5, 0.9, None, 0.9, 0.7, 0.9], strict=True))
    shared = share(tmp_path / "s", grid)
    shared.work(lambda one: results[point(one)])
    ranking = shared.ranking()
    best = sorted((one for one in grid.candidates if results[point(one)] == 0.9), key=lambda one: one.macs)
    assert [one.candidate for one in ranking[:3]] == best
    assert [one.accuracy for one in ranking] == [0.9, 0.9, 0.9, 0.7, 0.5, None]
    assert all(one.accuracy == results[point(one.candidate)] for one in ranking)
    # another process sees the same, and has nothing to do
    other = share(tmp_path / "s", grid)
    other.work(lambda one: pytest.fail("trained again"))
    assert other.ranking() == ranking


def test_a_stopped_study_goes_on_with_what_is_left(tmp_path: Path, grid: Grid) -> None:
    trained: list[Candidate] = []

    def stop_at_the_third(one: Candidate) -> float:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(one)
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        share(tmp_path / "s", grid).work(stop_at_the_third)
    assert Counter(trial.state.name for trial in trials(tmp_path / "s", "s")) == {"COMPLETE": 2, "FAIL": 1}
    share(tmp_path / "s", grid).work(lambda one: trained.append(one) or 0.5)
    assert trained == list(grid.candidates)


def test_a_result_that_comes_too_late_is_not_counted(tmp_path: Path, grid: Grid) -> None:
    said: list[str] = []
    shared = share(tmp_path / "s", grid, said.append)
    trained: list[Candidate] = []

    def sleep_through_the_first(one: Candidate) -> float:
        if not trained:
            shared.study.tell(0, state=optuna.trial.TrialState.FAIL)  # as another process does after the silence
        trained.append(one)
        return 0.1 * len(trained)

    shared.work(sleep_through_the_first)
    assert "not counted" in said[1]
    assert trained == [grid.candidates[0], *grid.candidates]
    assert shared.done()[0].value == pytest.approx(0.2)


def test_a_database_that_goes_away_is_one_sentence(tmp_path: Path, grid: Grid) -> None:
    def lose_the_table(one: Candidate) -> float:
        with sqlite3.connect(tmp_path / "s") as database:
            database.execute("DROP TABLE trials")
        return 0.5

    with pytest.raises(OSError, match="the study is out of reach: .*no such table: trials"):
        share(tmp_path / "s", grid).work(lose_the_table)


def test_one_process_alone_makes_each_trial(tmp_path: Path) -> None:
    """Four processes that start at once on nothing; each notes what it trains in a file of its own."""
    code = """
import sys, time
from pathlib import Path
from effnet_builder import load_spec
from effnet_builder.arch.candidates import candidates
from effnet_builder.search import SharedStudy, open_study
mine = Path(sys.argv[2]).open("w")
found = candidates(load_spec("efficientnet-pico"), step=0.1).candidates
time.sleep(max(0.0, float(sys.argv[3]) - time.time()))
shared = SharedStudy(open_study(sys.argv[1], "s", {"spec": "pico"}), found, lambda text: None)
shared.work(lambda one: print(one, file=mine, flush=True) or time.sleep(0.02) or 0.5)
"""
    start = str(time.time() + 4)
    workers = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "study", tmp_path / f"{i}.txt", start])
        for i in range(4)
    ]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    trained = [line for i in range(4) for line in (tmp_path / f"{i}.txt").read_text().splitlines()]
    wanted = [str(one) for one in candidates(load_spec("efficientnet-pico"), step=0.1).candidates]
    assert sorted(trained) == sorted(wanted)
    assert Counter(trial.state.name for trial in trials(tmp_path / "study", "s"))["COMPLETE"] == len(wanted)


def test_a_dead_process_is_known_by_its_silence(tmp_path: Path, grid: Grid, fast: None) -> None:
    dead, said = share(tmp_path / "s", grid), []
    dead.study.set_user_attr(dead.worker, 7)
    assert dead._claim() is not None  # and then nothing more is heard of it
    alive = share(tmp_path / "s", grid, said.append)
    start = time.monotonic()
    alive.work(lambda one: 0.5)
    assert time.monotonic() - start > search.SILENCE
    assert f"candidate 1 is free again: no sign of life from {dead.worker}" in said
    assert Counter(trial.state.name for trial in alive.study.trials) == {"COMPLETE": 6, "FAIL": 1}


@pytest.mark.parametrize("key", ["spec", "recipe"])
def test_a_study_of_something_else_is_refused(tmp_path: Path, key: str) -> None:
    made_for = {"spec": "a", "recipe": "b"}
    open_study(str(tmp_path / "s"), "s", made_for)
    assert open_study(str(tmp_path / "s"), "s", made_for).trials == []
    with pytest.raises(ConfigError, match=f"--study .*: the study 's' in it was made with another {key};"):
        open_study(str(tmp_path / "s"), "s", made_for | {key: "c"})
    assert open_study(str(tmp_path / "s"), "t", made_for | {key: "c"}).trials == []


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        (
            "postgresql+psycopg2://me:secret@nowhere/x",
            "--study postgresql+psycopg2://***@nowhere/x: cannot be opened: ",
        ),
        ("nosuch://me:secret@nowhere/x", "--study nosuch://***@nowhere/x: cannot be opened: "),
        ("{folder}", "--study {folder}: cannot be opened: unable to open database file"),
        ("{folder}/text", "--study {folder}/text: cannot be opened: file is not a database"),
        ("{folder}/text/study", "--study {folder}/text/study: cannot be opened: File exists: {folder}/text"),
    ],
)
def test_what_is_no_study_is_one_sentence(tmp_path: Path, fast: None, storage: str, message: str) -> None:
    (tmp_path / "text").write_text("This is no database, but a text.\n" * 10)
    with pytest.raises(ConfigError) as caught:
        open_study(storage.replace("{folder}", str(tmp_path)), "s", {})
    assert str(caught.value).startswith(message.replace("{folder}", str(tmp_path)))
    assert "secret" not in str(caught.value)


def test_any_file_name_will_do(tmp_path: Path, grid: Grid) -> None:
    file = tmp_path / "deep" / "a?b#c%20{d}.study"
    share(file, grid)
    assert file.is_file()
    assert sorted(os.listdir(tmp_path)) == ["deep", "spec.yaml"]


# The study, with networks trained on digits


def start(spec: Path, study: Path, step: float = 0.4) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", DRIVER, str(spec), str(step), str(study)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell starts its background jobs, so perhaps these tests, with SIGINT ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def stop_while_training(worker: subprocess.Popen[str], candidate: int, sent: signal.Signals) -> str:
    """Send a signal while a candidate is being trained; what the process writes to stderr."""
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith(f"candidate {candidate} of") and line.endswith("training\n"):
            break
    worker.send_signal(sent)
    return worker.communicate(timeout=60)[1]


def test_two_processes_share_a_study(write_yaml: WriteYaml, tmp_path: Path) -> None:
    spec, study = write_yaml(TINY), tmp_path / "study"
    workers = [start(spec, study, 0.2) for _ in range(2)]
    outputs = [worker.communicate(timeout=60) for worker in workers]
    assert [(worker.returncode, stderr) for worker, (_, stderr) in zip(workers, outputs, strict=True)] == [(0, "")] * 2
    trained = [line for stdout, _ in outputs for line in stdout.splitlines() if line.endswith("are trained")]
    assert sorted(line[:16] for line in trained) == [f"candidate {i} of 6" for i in range(1, 7)]
    assert len([line for line in outputs[0][0].splitlines() if line.endswith("are trained")]) in range(1, 6)
    finished = [trial for trial in trials(study) if trial.state.name == "COMPLETE"]
    assert len(finished) == len({trial.user_attrs["candidate"] for trial in finished}) == 6
    # both print the same ranking
    tables = [stdout[stdout.index("\nrank") :] for stdout, _ in outputs]
    assert tables[0] == tables[1]
    rows = [line.split() for line in tables[0].splitlines()[3:9]]
    order = sorted(finished, key=lambda trial: (-trial.value, trial.user_attrs["macs"]))
    assert [[float(cell) for cell in row[2:5]] for row in rows] == [list(trial.params.values()) for trial in order]
    assert [row[1] for row in rows] == [f"{trial.value:.2%}" for trial in order]


def test_a_killed_and_stopped_study_goes_on(write_yaml: WriteYaml, tmp_path: Path) -> None:
    spec, study = write_yaml(TINY), tmp_path / "study"
    stop_while_training(start(spec, study), 2, signal.SIGKILL)
    assert [trial.state.name for trial in trials(study)] == ["COMPLETE", "RUNNING"]
    first = trials(study)[0]

    for sent, code, word in ((signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")):
        worker = start(spec, study)
        stderr = stop_while_training(worker, 3, sent)
        assert (worker.returncode, stderr) == (
            code,
            f"{word}; what is trained is kept; the same command goes on with it\n",
        )
    assert [trial.state.name for trial in trials(study)] == ["COMPLETE", "RUNNING", "FAIL", "FAIL"]

    stdout, stderr = (worker := start(spec, study)).communicate(timeout=60)
    assert (worker.returncode, stderr) == (0, "")
    assert "3 candidates, 1 of them trained" in stdout
    assert "candidate 2 is free again: no sign of life from" in stdout
    assert "candidate 1 of 3" not in stdout
    assert [trial.state.name for trial in trials(study)] == ["COMPLETE", "FAIL", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials(study)[0] == first


def test_a_study_is_for_one_spec_recipe_and_data(
    write_yaml: WriteYaml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, data = str(tmp_path / "study"), make_folder(tmp_path / "pets")
    spec = load_spec(write_yaml(TINY))

    def run(**changes: object) -> str:
        options = {"step": 0.4, "tolerance": 0.1, "epochs": 1, "data": f"folder:{data}", "study": study}
        search_train(**{"spec": spec} | options | changes)  # type: ignore[arg-type]
        return capsys.readouterr().out

    first = run()
    assert "num_classes 10 -> 2: those of pets" in first
    assert "3 candidates, 0 of them trained" in first
    # the same images elsewhere are the same data
    (tmp_path / "elsewhere").mkdir()
    data = data.rename(tmp_path / "elsewhere" / "pets")
    again = run()
    assert "3 candidates, 3 of them trained" in again
    assert again[again.index("rank") :] == first[first.index("rank") :]
    other = load_spec(write_yaml(TINY.replace("width: 0.25", "width: 0.2")))
    with pytest.raises(ConfigError, match="the study 'tiny-folder' in it was made with another spec, grid;"):
        run(spec=other)
    with pytest.raises(ConfigError, match="another recipe;"):
        run(epochs=2)
    with pytest.raises(ConfigError, match="another grid;"):
        run(step=0.2)
    next((data / "train" / "cat").iterdir()).unlink()
    with pytest.raises(ConfigError, match="another data;"):
        run()


def test_the_accuracy_is_train_arch_s_on_the_validation_images(write_yaml: WriteYaml, tmp_path: Path) -> None:
    spec = write_yaml(TINY)
    assert CliRunner().invoke(app, [str(spec), "--epochs", "1", "--out", str(tmp_path / "run")]).exit_code == 0
    reported = json.loads((tmp_path / "run" / "result.json").read_text())

    plan, recipe, cpu = resolve(load_spec(spec)), choose_recipe(None, "digits", recipe_changes(1)), torch.device("cpu")
    digits = load_dataset("digits", channels=3, size=8, progress=lambda items, *_: items)
    assert validation_accuracy(plan, digits, recipe, cpu) == reported["valid_accuracy"]
    untested = replace(digits, test=digits.test.take(torch.arange(0)))
    assert validation_accuracy(plan, untested, recipe, cpu) == reported["valid_accuracy"]
    wild = recipe.vary({"optimizer": {"type": "sgd", "lr": 100, "momentum": 0.99}, "epochs": 30})
    assert validation_accuracy(plan, digits, wild, cpu) is None
