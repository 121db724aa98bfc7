"""Curves are what the files say; figures are written where they should be."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmaml.config.keys import built_in_keys
from mmaml.errors import UsageError
from mmaml.evaluation import held_out
from mmaml.figures import curves, run_figures
from mmaml.figures.curves import Curve
from mmaml.figures.page import page
from mmaml.figures.trajectories import Trajectories, plot_trajectories
from tests.helpers.support import files_no_larger

SCRIPT = Path(__file__).parents[2] / "run_scripts" / "plot.py"
PARAMS = {
    "algorithm": "mmaml",
    "env": "MetaPointEnvMomentumModes",
    "seed": 1,
    "learning_rate": 1e-3,
    "n_itr": 4,
}


def _run(path: Path, after: list[float], **changes: Any) -> Path:
    """The files of a run with these returns after adaptation, and an evaluation in its first iteration."""
    path.mkdir(parents=True)
    record = {**PARAMS, "dump_path": str(path), **changes, "versions": {"torch": "2"}, "git_commit": None}
    (path / "params.json").write_text(json.dumps(record))
    lines = [
        "Itr,n_timesteps,Step_0-AverageReturn,Step_1-AverageReturn,Eval-Step_0-AverageReturn,Eval-Step_1-AverageReturn"
    ]
    for iteration, value in enumerate(after):
        held_out = f"-900,{value - 1}" if iteration == 0 else ","
        lines.append(f"{iteration},{240_000 * (iteration + 1)},-800,{value},{held_out}")
    (path / "progress.csv").write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def plot() -> Callable[..., int]:
    main = runpy.run_path(str(SCRIPT))["main"]
    return lambda *argv: main([str(argument) for argument in argv])


def _is_picture(path: Path) -> bool:
    from matplotlib.image import imread

    pixels = imread(path)
    return pixels.shape[0] > 300 and pixels.shape[1] > 300 and pixels[..., :3].std() > 0.01


def test_a_table_leaves_out_broken_rows_and_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("Itr,Step_0\n89.83\n2,-7\n3,\nnot,numbers\n5,-4,1\n6,-3.5\n")
    table, unread = curves.read_table(path)
    np.testing.assert_array_equal(table["Itr"], [2, 3, 6])
    np.testing.assert_array_equal(table["Step_0"], [-7, np.nan, -3.5])
    assert unread == 3


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("Itr,Step_0\r\n1,-7\r\n", encoding="utf-8-sig")
    assert [*curves.read_table(path)[0]] == ["Itr", "Step_0"]


@pytest.mark.parametrize("steps", ["", "1e308"])
def test_rows_that_do_not_say_where_they_belong_are_left_out(
    steps: str, tmp_path: Path, plot: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run(tmp_path / "run", [-8, -6])
    with open(run / "progress.csv", "a") as file:
        file.write(f"2,{steps},-800,-4,,\n")
    _, curve = curves.read_run(run)
    np.testing.assert_array_equal(curve.env_steps, [240_000, 480_000])
    assert curve.returns.shape == (1, 2, 2) and curve.held_out is not None and curve.held_out.shape == (1, 2, 2)
    assert plot(run, "--no_trajectories") == 0
    assert capsys.readouterr().err == "notice: mmaml: unreadable rows left out: 1\n"
    lines = (run / "progress.csv").read_text().splitlines()
    (run / "progress.csv").write_text("\n".join([lines[0], lines[-1]]) + "\n")
    with pytest.raises(UsageError, match=r"rows of numbers in .*, got none"):
        curves.read_run(run)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["", "-1e308"])
def test_what_is_not_known_or_too_large_is_not_drawn(value: str, tmp_path: Path, plot: Callable[..., int]) -> None:
    run = _run(tmp_path / "run", [-8, -6])
    text = (run / "progress.csv").read_text()
    (run / "progress.csv").write_text(text.replace("-800,", f"{value},").replace(",-6,", f",{value},"))
    (tmp_path / "table.csv").write_text(f"n_timesteps,Step_0,Step_1,Step_{'9' * 5000}\n1,{value},{value},1\n")
    _, curve = curves.read_run(run)
    np.testing.assert_array_equal(curve.returns, [[[np.nan, -8], [np.nan, np.nan]]])
    words = ("--overlay", f"unknown={tmp_path / 'table.csv'}", "--title", "none \N{ROCKET}", "--limits", -10, 0)
    assert plot(run, *words, "--reference", "out of sight=1e30", "--no_trajectories") == 0
    assert _is_picture(run / "learning_curves.png")


def test_a_run_is_drawn_again_only_after_further_iterations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(run_figures, "draw_trajectories", lambda run, path, **_: (drawn.append(path), path.touch()))
    run = _run(tmp_path / "run", [-8, -6])
    for _ in range(2):
        run_figures.draw_run(run)
    assert drawn == [run / "trajectories.png"] and _is_picture(run / "learning_curves.png")
    assert capsys.readouterr().out == f"{run / 'learning_curves.png'}\n"
    latest = (run / "trajectories.png").stat().st_mtime_ns
    os.utime(run / "progress.csv", ns=(latest + 1, latest + 1))  # as after another row
    run_figures.draw_run(run)
    assert len(drawn) == 2 and capsys.readouterr().out == f"{run / 'learning_curves.png'}\n"


def test_a_seed_whose_log_goes_on_from_another_is_drawn_from_there(tmp_path: Path) -> None:
    """Nothing is known of it before; held-out returns of equal iterations are in other rows."""
    whole, other = (curves.read_run(_run(tmp_path / str(seed), [-8, -6, -5, -4], seed=seed)) for seed in (1, 2))
    second = other[1]
    assert second.held_out is not None
    kept = {"returns": second.returns[:, 2:], "held_out": second.held_out[:, 2:]}
    rest = replace(second, env_steps=second.env_steps[2:], first=2, **kept)
    (curve,) = curves.group_runs([whole, (other[0], rest)])
    np.testing.assert_array_equal(curve.env_steps, second.env_steps[2:])
    np.testing.assert_array_equal(curve.returns[:, :, 1], [[-5, -4]] * 2)
    assert curve.held_out is None


def test_the_iteration_of_its_first_row_says_whether_a_log_goes_on(tmp_path: Path) -> None:
    """Not its env steps: episodes may be longer with another seed."""
    config, curve = curves.read_run(_run(tmp_path / "run", [-8, -6, -5, -4]))
    assert curve.first == 0
    longer = replace(curve, env_steps=curve.env_steps * 2.5)
    (merged,) = curves.group_runs([(config, curve), (config | {"seed": 2}, longer)])
    np.testing.assert_array_equal(merged.env_steps, curve.env_steps)
    log = tmp_path / "run" / "progress.csv"
    header, *rows = log.read_text().splitlines()
    log.write_text("\n".join([header, *rows[2:]]) + "\n")
    assert curves.read_run(tmp_path / "run")[1].first == 2
    log.write_text("\n".join([header, rows[2].replace("2", "inf", 1)]) + "\n")
    assert curves.read_run(tmp_path / "run")[1].first == 0


def test_seeds_without_env_steps_in_common_are_refused_not_made_up(tmp_path: Path) -> None:
    config, curve = curves.read_run(_run(tmp_path / "run", [-8, -6]))
    later = replace(curve, env_steps=curve.env_steps + 1_000_000, first=5)
    with pytest.raises(
        UsageError, match="begins after 1,240,000 env steps, another ends at 480,000; give one of them a"
    ):
        curves.group_runs([(config, curve), (config | {"seed": 2}, later)])


def test_seeds_of_which_one_has_only_begun_are_drawn(tmp_path: Path) -> None:
    long, short = (curves.read_run(_run(tmp_path / str(seed), [-8, -6], seed=seed)) for seed in (1, 2))
    begun = Curve("", np.array([100.0]), np.full((1, 1, 2), -9.0))
    (curve,) = curves.group_runs([long, (short[0], begun)])
    np.testing.assert_array_equal(curve.env_steps, [100])
    np.testing.assert_array_equal(curve.returns[:, 0, 1], [-8, -9])


def test_runs_whose_files_tell_of_other_steps_are_not_of_one_curve(tmp_path: Path) -> None:
    """As files do that were changed by hand: the configuration is the same."""
    runs = [curves.read_run(_run(tmp_path / name, [-8, -6])) for name in ("a", "b")]
    text = (tmp_path / "b" / "progress.csv").read_text()
    (tmp_path / "b" / "progress.csv").write_text(text.replace("Step_0", "Step-0", 1))
    runs[1] = curves.read_run(tmp_path / "b")
    assert [curve.returns.shape for curve in curves.group_runs(runs)] == [(1, 2, 2), (1, 2, 1)]


def test_seeds_form_one_curve_and_other_differences_name_theirs(tmp_path: Path) -> None:
    runs = [
        curves.read_run(_run(tmp_path / "a", [-8, -6, -4], seed=1, n_itr=3)),
        curves.read_run(_run(tmp_path / "b", [-10, -10, -10, -10], seed=2)),
        curves.read_run(_run(tmp_path / "c", [-1, -2], learning_rate=5e-5)),
        curves.read_run(_run(tmp_path / "d", [-3, -4], algorithm="promp")),
    ]
    two_seeds, slow, promp = curves.group_runs(runs)
    assert [two_seeds.label, slow.label, promp.label] == [
        "mmaml, learning_rate 0.001",
        "mmaml, learning_rate 5e-05",
        "promp, learning_rate 0.001",
    ]
    np.testing.assert_array_equal(two_seeds.env_steps, [240_000, 480_000, 720_000])  # as far as both go
    np.testing.assert_array_equal(two_seeds.returns[:, :, 1], [[-8, -6, -4], [-10, -10, -10]])
    np.testing.assert_array_equal(two_seeds.held_out[:, 0], [[-900, -9], [-900, -11]])
    assert np.isnan(two_seeds.held_out[:, 1:]).all()


def test_runs_of_earlier_versions_and_of_this_one_are_of_one_curve(tmp_path: Path) -> None:
    """Those wrote down every key of every algorithm, and none of today's."""
    runs = [curves.read_run(_run(tmp_path / str(seed), [-8, -6], seed=seed)) for seed in (1, 2)]
    every = {name: key.default for name, key in built_in_keys().items()}
    earlier = {name: value for name, value in (every | runs[0][0]).items() if name != "episodes_per_trial"}
    (curve,) = curves.group_runs([(earlier, runs[0][1]), runs[1]])
    assert curve.returns.shape == (2, 2, 2)


def test_a_run_given_twice_and_a_seed_that_is_there_twice_count_once(
    tmp_path: Path, plot: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long, other = (
        _run(tmp_path / name, [-8] * iterations, seed=seed)
        for name, iterations, seed in (("short", 1, 1), ("long", 3, 1), ("other", 2, 2))
    )
    drawn: list[Curve] = []
    monkeypatch.setattr(curves, "plot_curves", lambda given, *_, **__: drawn.extend(given))
    assert plot(short, long, other, other, "--no_trajectories") == 0
    assert [curve.returns.shape for curve in drawn] == [(2, 2, 2)]  # two seeds, as far as both go
    assert capsys.readouterr().err.splitlines() == [
        f"notice: {short} repeats seed 1 of {long}, and is left out",
        f"notice: {other} repeats seed 2 of {other}, and is left out",
    ]


def test_a_given_label_is_used(tmp_path: Path) -> None:
    runs = [curves.read_run(_run(tmp_path / str(s), [-1], seed=s), "tuned" if s == 2 else "") for s in (1, 2)]
    assert [curve.label for curve in curves.group_runs(runs)] == ["tuned"]


def test_labels_name_what_has_an_effect_and_of_many_keys_as_few_as_tell_apart(tmp_path: Path) -> None:
    same = {"algorithm": "rl2", "episodes_per_trial": 2}
    alike = [curves.read_run(_run(tmp_path / str(rate), [-1], inner_lr=rate, seed=rate, **same)) for rate in (1, 2)]
    assert [curve.label for curve in curves.group_runs(alike)] == ["rl2"]  # which takes no inner step
    many = {"env": "2DNavigation-v0", "discount": 0.5, "gae_lambda": 0.5, "max_path_length": 7}
    runs = [curves.read_run(_run(tmp_path / f"a{discount}", [-1], discount=discount)) for discount in (0.5, 0.9)]
    runs.append(curves.read_run(_run(tmp_path / "b", [-1], **many)))
    assert [curve.label for curve in curves.group_runs(runs)] == [
        "mmaml, discount 0.5, env MetaPointEnvMomentumModes",
        "mmaml, discount 0.9, env MetaPointEnvMomentumModes",
        "mmaml, discount 0.5, env 2DNavigation-v0",
    ]


@pytest.mark.parametrize(
    ("header", "first", "expected"),
    [
        ("n_timesteps,Step_0-AverageReturn,Step_1-AverageReturn", 500, [500, 501]),
        ("Itr,Step_0,Step_1", 0, [100, 200]),
        ("Itr,Step_0,Step_1", 1, [100, 200]),
        ("Itr,Step_0-AverageReturn,Step_1-AverageReturn", 2, [200, 300]),
    ],
)
def test_curves_of_other_programs(tmp_path: Path, header: str, first: int, expected: list[float]) -> None:
    path = tmp_path / "other.csv"
    path.write_text(f"{header}\n{first},-9,-8\n{first + 1},-7,-6\n")
    curve = curves.read_external("theirs", path, 100)
    np.testing.assert_array_equal(curve.env_steps, expected)
    np.testing.assert_array_equal(curve.returns, [[[-9, -8], [-7, -6]]])


def test_smoothing_is_a_mean_of_what_is_known() -> None:
    values = np.array([[1.0, 2.0, np.nan, 4.0, 9.0]])
    np.testing.assert_allclose(curves._smooth(values, 1), values)
    np.testing.assert_allclose(curves._smooth(values, 3), [[1.5, 1.5, 3.0, 6.5, 6.5]])
    assert curves._smooth(values, 50).shape == values.shape


def test_the_figure_shows_means_bands_and_held_out_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    legend = curves._legend
    monkeypatch.setattr(curves, "_legend", lambda axes, curves: (drawn.update(axes=axes), legend(axes, curves)))
    held_out = np.full((2, 3, 2), np.nan)
    held_out[:, 2, 1] = [-3.0, -5.0]
    returns = np.array([[[-9, -6], [-9, -4], [-9, -2.0]], [[-9, -8], [-9, -6], [-9, -6.0]]])
    curve = Curve("ours", np.array([1e6, 2e6, 3e6]), returns, held_out)
    curves.plot_curves([curve], tmp_path / "new" / "figure.png", references=[("bound", -1.0)])
    before, after, points, reference = drawn["axes"].lines
    np.testing.assert_allclose(after.get_xydata(), [[1, -7], [2, -5], [3, -4]])
    np.testing.assert_allclose(before.get_ydata(), -9)
    np.testing.assert_allclose(points.get_xydata(), [[3, -4]])
    np.testing.assert_allclose(reference.get_ydata(), -1)
    band = drawn["axes"].collections[1].get_datalim(drawn["axes"].transData)
    np.testing.assert_allclose([band.y0, band.y1], [-7 - np.sqrt(2), -4 + np.sqrt(8)])
    texts = [text.get_text() for text in drawn["axes"].get_legend().get_texts()]
    assert texts[0] == "ours (2 seeds)" and "before adaptation" in texts
    assert _is_picture(tmp_path / "new" / "figure.png")
    curves.plot_curves([Curve("one stage", curve.env_steps, returns[..., :1], None)], tmp_path / "figure.png")
    assert [text.get_text().strip() for text in drawn["axes"].get_legend().get_texts()] == ["one stage (2 seeds)", ""]
    curves.plot_curves([Curve("one point", curve.env_steps[:1], returns[:, :1], None)], tmp_path / "figure.png")
    assert all(line.get_marker() == "." for line in drawn["axes"].lines)  # without one it could not be seen


def test_many_curves_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    legend = curves._legend
    monkeypatch.setattr(curves, "_legend", lambda axes, curves: (drawn.update(axes=axes), legend(axes, curves)))
    many = [Curve(f"run {index}", np.arange(3.0), np.full((1, 3, 1), 1.0 * index)) for index in range(30)]
    curves.plot_curves(many, tmp_path / "figure.svg")
    styles = [(line.get_color(), line.get_marker()) for line in drawn["axes"].lines[1::2]]
    assert len({*styles}) == 30
    handles = drawn["axes"].get_legend().legend_handles[:30]
    assert [(line.get_color(), line.get_marker()) for line in handles] == styles[::-1]


def test_a_disk_that_is_full_leaves_the_figure_before(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    curve = Curve("ours", np.array([1.0, 2.0]), np.zeros((1, 2, 2)))
    curves.plot_curves([curve], path)
    before = path.read_bytes()
    with files_no_larger(5000), pytest.raises(OSError, match="File too large"):
        curves.plot_curves([curve], path, title="another")
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(("tasks", "collections"), [(1, 2), (6, 3)])
def test_trajectories_of_any_number_of_modes(tmp_path: Path, tasks: int, collections: int) -> None:
    rng = np.random.default_rng(0)
    trajectories = Trajectories(
        positions=rng.normal(size=(tasks, collections, 4, 10, 2)).cumsum(3),
        connected=rng.random((tasks, collections, 4, 9)) < 0.9,
        goals=rng.normal(size=(tasks, 2)),
        returns=rng.normal(size=(tasks, collections)),
        names=[f"mode {task}" for task in range(tasks)],
        gaps=np.array([[[1.0, 0.0], [0.0, 2.0]]] * tasks) if tasks > 1 else None,
    )
    plot_trajectories(trajectories, tmp_path / "figure.png", title="title")
    assert _is_picture(tmp_path / "figure.png")


def test_figures_go_into_the_runs_folder_or_where_told(tmp_path: Path, plot: Callable[..., int], capsys: Any) -> None:
    first, second = _run(tmp_path / "a", [-8, -6]), _run(tmp_path / "b", [-7, -6], seed=2)
    other = tmp_path / "other.csv"
    other.write_text("Itr,Step_0,Step_1\n1,-9,-8\nbroken\n3,-7,-6\n")
    assert plot(first, second, "--no_trajectories") == 0
    assert _is_picture(first / "learning_curves.png") and not (second / "learning_curves.png").exists()
    assert plot(f"ours={first}", "--overlay", f"theirs={other}", "--output", tmp_path / "out", "--no_trajectories") == 0
    assert _is_picture(tmp_path / "out" / "learning_curves.png")
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        str(first / "learning_curves.png"),
        str(tmp_path / "out/learning_curves.png"),
    ]
    assert captured.err == "notice: theirs: unreadable rows left out: 1\n"


def test_pictures_of_runs_whose_folders_have_one_name_do_not_replace_each_other(
    tmp_path: Path, plot: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(run_figures, "draw_trajectories", lambda run, path, rollouts_per_task: drawn.append(path))
    runs = [_run(tmp_path / name, [-8, -6], seed=seed) for seed, name in enumerate(("a/run", "b/run", "run_2"))]
    assert plot(*runs, "--output", tmp_path / "out") == 0
    assert len({*drawn}) == len(runs)


def test_a_figure_that_fails_is_closed(tmp_path: Path) -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    with pytest.raises(ZeroDivisionError), page(tmp_path / "figure.png", 2, 2):
        raise ZeroDivisionError
    assert pyplot.get_fignums() == before and not [*tmp_path.iterdir()]


def test_curves_are_drawn_where_the_environment_is_not_installed(
    tmp_path: Path, plot: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restore(*_: Any) -> Any:
        raise UsageError("restore_path", "the configuration cannot be used here: env: not installed")

    monkeypatch.setattr(held_out, "restore", restore)
    assert plot(_run(tmp_path / "run", [-8, -6])) == 0
    assert _is_picture(tmp_path / "run" / "learning_curves.png")
    assert capsys.readouterr().err == (
        "note: no trajectories are drawn: restore_path: the configuration cannot be used here: env: not installed\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "RUN"),
        (["{tmp}/none"], "RUN: expected the directory of a run, with its params.json, got '{tmp}/none'"),
        (["{damaged}"], "RUN: expected a JSON object in '{damaged}/params.json', got list; fix it"),
        (["{run}", "--overlay", "x"], "--overlay: expected LABEL=VALUE, got 'x'"),
        (["{run}", "--overlay", "x={tmp}/none.csv"], "none.csv"),
        (["{run}", "--overlay", "x={run}/params.json"], "params.json"),
        (["{run}", "--reference", "x=high"], "--reference: expected LABEL=NUMBER, got 'high'"),
        (["{run}", "--smooth", "0"], "--smooth: expected a whole number ≥ 1, got 0"),
        (["{run}", "--smoth", "3"], "--smoth"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, plot: Callable[..., int], capsys: Any, arguments: list[str], expected: str
) -> None:
    places = {"tmp": tmp_path, "run": _run(tmp_path / "run", [-8, -6]), "damaged": _run(tmp_path / "damaged", [-8])}
    (tmp_path / "damaged" / "params.json").write_text("[]")
    assert plot(*(argument.format(**places) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: ") and expected.format(**places) in captured.err


def test_a_run_without_a_finished_iteration_is_named(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", [])
    with pytest.raises(UsageError, match=r"progress\.csv"):
        curves.read_run(run)
