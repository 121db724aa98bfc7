"""README.md and docs: their examples run, what they name exists."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmaml.cli import maml_run, named_run, train
from mmaml.cli.main import COMMANDS, LISTS
from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.keys import ALIASES, COMMON_KEYS, built_in_keys
from mmaml.config.loading import EXTENDS, build_config, idle_keys, read_config_file
from mmaml.config.shipped import find_config
from mmaml.updates.evaluate import Question
from mmaml.worker import Worker
from tests.helpers.support import SMALL, progress, run, sampled, small_config

KEYS = COMMON_KEYS | built_in_keys()
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
README, COMPARISON = TEXTS["README.md"], TEXTS["docs/comparison.md"]

VERBATIM = """\
python run_scripts/mumo_run_point_mass.py --config_file configs/point_env_momentum_dense.json
python run_scripts/pro-mp_run_point_mass.py --config_file configs/point_env_momentum_dense.json
mpirun -n 2 python run_scripts/mumo_run_point_mass.py --config_file configs/point_env_momentum_dense.json \
--dump_path out/run1 --overrides '{"n_itr": 5}'
"""
MAML_RUN = """\
python run_scripts/maml_run.py --env-name 2DNavigation-v0 --num-workers 2 --fast-lr 0.1 --max-kl 0.01 \
--fast-batch-size 20 --meta-batch-size 40 --num-layers 2 --hidden-size 100 --num-batches 500 --gamma 0.99 --tau 1.0 \
--cg-damping 1e-5 --ls-max-steps 15
"""


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


# Examples.


def files_to_write() -> dict[str, str]:
    """Files that pages have their reader write, each named by the comment in its first line."""
    python = [text for page in TEXTS.values() for text in blocks(page, "python")]
    named = [(re.match(r"# ([\w/]+\.py)\n", text), text) for text in python]
    return {match[1]: text for match, text in named if match}


@pytest.fixture
def reptile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The algorithm of docs/algorithms/your_own.md in a folder of its user's; what the page's command sets."""
    (tmp_path / "reptile.py").write_text(files_to_write()["reptile.py"], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    line = next(line for line in commands(TEXTS["docs/algorithms/your_own.md"]) if "reptile:Reptile" in line)
    options = accepted(line)
    yield options.overrides | {"algorithm": options.algorithm}
    sys.modules.pop("reptile", None)


def test_the_algorithm_of_the_docs_trains(reptile: dict[str, Any], tmp_path: Path) -> None:
    config = build_config(SMALL | reptile | {"dump_path": str(tmp_path / "run")})
    before = Worker(config).algorithm.spec.total
    state = run(config)
    assert state["iteration"] == 2
    assert sum(value.numel() for value in state["parameters"].values()) == before
    rows = progress(tmp_path / "run")
    assert all(float(row["Displacement"]) > 0 for row in rows)


def test_the_algorithm_of_the_docs_declares_all_keys_without_effect(reptile: dict[str, Any]) -> None:
    given = {"meta_update": "trpo", "learning_rate": 0.1, "clip_eps": 0.1, "max_kl": 0.1, "num_minibatches": 2}
    config = build_config(SMALL | reptile | given)
    assert idle_keys(config, {**given, "outer_step_size": 0.3, "inner_lr": 0.1}) == [*given]


def test_the_algorithm_of_the_docs_is_what_it_says(reptile: dict[str, Any]) -> None:
    """θ_K - θ, with one inner step, is -α times the gradient of the inner loss at θ."""
    config = build_config(SMALL | reptile)
    worker, parameters, _ = sampled(config)
    assert worker.block is not None
    data = worker.block.rollouts[0]
    algorithm: Any = worker.algorithm
    meta = algorithm.spec.per_task(parameters, data.tasks)
    new = algorithm.policy.distribution(meta, data.flat("observations"))
    gains = (new.log_prob(data.flat("actions")) * data.flat("advantages") * data.flat("weights")).sum()
    gradients = torch.autograd.grad(gains, list(meta.values()))
    expected = config.inner_lr * algorithm.spec.flatten_per_task(dict(zip(meta, gradients, strict=True)))
    found = torch.from_numpy(worker.block.answer(Question("displacement", parameters))["displacement"])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    updated, _ = algorithm.update(parameters, worker.block.evaluate(), 0)
    torch.testing.assert_close(updated, parameters + reptile["outer_step_size"] * found.mean(0))


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = blocks(README, "python")
    keys = ", ".join(f"{key}={value!r}" for key, value in SMALL.items() if key not in ("n_itr", "parallel"))
    names: dict[str, Any] = {}
    exec(compile(text.replace("n_itr=2", f"n_itr=2, {keys}"), "README.md", "exec"), names)
    assert names["run"].last["Itr"] == 1 and names["action"].shape == (2,)


# The command lines of all pages.


def commands(text: str) -> list[str]:
    """Lines of shell blocks, without comments; those that a backslash continues are one."""
    shell = "\n".join([*blocks(text, "sh"), *blocks(text, "bash")]).replace("\\\n", " ")
    return [re.sub(r"\s+#.*", "", line) for line in shell.splitlines() if line.strip()]


def accepted(line: str) -> Any:
    """What the toolkit's program in a line of the shell reads from it, None if there is none. Raises UsageError."""
    words = shlex.split(line.removesuffix("&"))
    for at, word in enumerate(words):
        arguments = words[at + 1 :]
        if word.startswith("run_scripts/"):
            script = Path(word).stem
            if script == "maml_run":
                return train.parse(arguments, script=maml_run.SCRIPT)
            if script.endswith("_run"):
                return train.parse(arguments, script=named_run.script())
            if script.startswith(("mumo_run_", "pro-mp_run_")):
                return train.parse(arguments)
            return importlib.import_module(f"mmaml.cli.{script.removesuffix('_policy')}").parse(arguments)
        if Path(word).name == "mmaml" and arguments and not arguments[0].startswith("--"):
            command, *arguments = arguments
            module = importlib.import_module(COMMANDS[command].module)
            if command == "train":
                return train.parse(arguments, script=train.COMMAND)
            return module.parse(arguments) if command not in LISTS else None
    return None


@pytest.mark.parametrize("page", [name for name, text in TEXTS.items() if "mmaml " in text or "run_scripts/" in text])
def test_the_command_lines_are_accepted(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for line in commands(TEXTS[page]):
        options = accepted(line)
        keys = {**getattr(options, "overrides", {}), **getattr(options, "keys", {})}
        names = {key.partition(".")[0] for key in keys}
        assert names <= {*KEYS, "outer_step_size"}, line  # the last is that of your_own.md
        file = getattr(options, "config_file", None)
        assert file in (None, "hold_speed.json") or read_config_file(find_config("CONFIG", file)), line


def test_there_are_command_lines() -> None:
    lines = [line for text in TEXTS.values() for line in commands(text)]
    assert len([line for line in lines if accepted(line)]) > 80


def test_the_command_lines_that_others_use_stand_verbatim() -> None:
    assert "\n" + VERBATIM in README
    assert "\n" + MAML_RUN in README


def test_make_targets_and_variables_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[1].split())  # type: ignore[index]
    for text in TEXTS.values():
        inline = re.findall(r"`([^`]+)`", without_blocks(text))
        assert set(re.findall(r"\bmake ([a-z-]+)", "\n".join([*commands(text), *inline]))) <= targets
    assert {"make setup", "make test", "make train"} <= {line.split(" &&")[0] for line in commands(README)}
    for variable in ("CONFIG", "ARGS", "RANKS", "SCRIPT"):
        assert f"`{variable}=`" in README and f"| `{variable}` |" in TEXTS["docs/runs.md"]
        assert re.search(rf"^{variable} \?=", makefile, flags=re.MULTILINE)


REPEAT = ROOT / "scripts" / "reproduce.py"
RESULTS = Path("docs") / "results"


def test_every_table_of_results_can_be_repeated() -> None:
    listed = subprocess.run([sys.executable, REPEAT], capture_output=True, text=True, check=True).stdout
    tables = dict(line.split(None, 1) for line in listed.splitlines())
    pages = {path.stem for path in (ROOT / RESULTS).glob("*.md")}
    assert {name for name in tables if "/" not in name} == pages
    for page in pages:
        printed = subprocess.run([sys.executable, REPEAT, page, "--print"], capture_output=True, text=True, check=True)
        lines = [line.removeprefix("$ ") for line in printed.stdout.splitlines()]
        assert f"{len(lines)} commands" == tables[page] and all(accepted(line) for line in lines if "mmaml " in line)


def test_a_table_is_repeated_by_its_commands_and_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / RESULTS).mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(REPEAT, tmp_path / "scripts")
    (tmp_path / RESULTS / "page.md").write_text(
        "# Page\n## A table\n```sh\n# twice\necho mmaml train --dump_path \\\n  out >> seen\n"
        "false | cat\necho never\n```\n"
    )
    done = subprocess.run([sys.executable, script, "page/a-table"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: exit code 1 from: false | cat\n")
    assert (tmp_path / "seen").read_text() == "mmaml train --dump_path out --resume\n"
    (tmp_path / RESULTS / "page.md").write_text(
        "# Page\n## A table\n```sh\nkill -INT $PPID; echo whole >> seen\necho never >> seen\n```\n"
    )
    done = subprocess.run([sys.executable, script, "page"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped by SIGINT; the same command goes on\n")
    assert (tmp_path / "seen").read_text().endswith("--resume\nwhole\n")
    (tmp_path / RESULTS / "page.md").write_text(
        "# Page\n## A table\n```sh\necho mmaml train a\necho mmaml train a n_itr=1\n```\n"
    )
    folders = []
    for _ in range(2):
        done = subprocess.run([sys.executable, script, "page", "--print"], capture_output=True, text=True, check=True)
        folders.append(re.findall(r"train a.* --dump_path (data/reproduced/a_\w+) --resume", done.stdout))
    assert folders[0] == folders[1] and len({*folders[0]}) == 2
    wrong = subprocess.run([sys.executable, script, "table"], capture_output=True, text=True)
    expected = "error: TABLE: expected one of page, page/a-table, got 'table'\n"
    assert (wrong.returncode, wrong.stderr) == (2, expected)
    wrong = subprocess.run([sys.executable, script, "page", "table"], capture_output=True, text=True)
    expected = "error: command line: unrecognized arguments: table; --help lists the arguments\n"
    assert (wrong.returncode, wrong.stderr) == (2, expected)


def test_the_table_of_algorithms_is_complete() -> None:
    first_cells = re.findall(r"^\| `(\w+)` \|", TEXTS["docs/algorithms/README.md"], flags=re.MULTILINE)
    assert {*first_cells} - {"algorithm"} == {*ALGORITHMS}


def test_the_readme_shows_what_it_is_at_once() -> None:
    """A picture and commands on the first screen; short enough to be read."""
    lines = README.splitlines()
    first = "\n".join(lines[:24])
    assert "](docs/results/" in first and first.count("```") == 2 and len(lines) <= 130


# What pages refer to.


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_links_lead_somewhere(path: Path) -> None:
    text = without_blocks(path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{page_name(path)} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page_name(path)} links to {target}"


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    folders = "mmaml|envs|run_scripts|configs|docs|tests|scripts|benchmarks"
    names = re.findall(rf"(?<![\w./])(?:{folders})/[\w./-]*\w\.(?:py|json|md|png|csv)\b", text)
    for name in set(names):
        assert (ROOT / name).is_file(), f"{page_name(path)} names {name}"


def defined(path: Path) -> set[str]:
    """Functions, classes and constants of a module, and methods as Class.method."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{member.name}" for member in node.body if isinstance(member, ast.FunctionDef)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page, least", [("equations", 40), ("architecture", 20)])
def test_functions_that_are_named_exist(page: str, least: int) -> None:
    """Names that follow a file: `file.py` `name`, `Class.method`."""
    text = without_blocks((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    named = re.findall(r"`([\w/]+\.py)`((?:,?\s+`[A-Za-z_][\w.]*`)+)", text)
    assert len(named) >= least
    for file, names in named:
        for name in re.findall(r"`([\w.]+)`", names):
            assert name in defined(Path(file)) or name.endswith(".py"), f"docs/{page}.md names {name} of {file}"


def test_tests_that_are_named_exist() -> None:
    named = {name for text in TEXTS.values() for name in re.findall(r"`(test_\w+)`", text)}
    defined_here = {name for path in (ROOT / "tests").rglob("test_*.py") for name in defined(path)}
    assert len(named) > 10 and named <= defined_here


def section_of_architecture(title: str) -> str:
    return TEXTS["docs/architecture.md"].partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_reading_order_names_every_folder() -> None:
    first_cells = re.findall(r"^\| (`[^|]*) \|", section_of_architecture("Reading order"), flags=re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`(mmaml/[\w.]+)`", cell)}
    there = {f"mmaml/{path.name}" for path in (ROOT / "mmaml").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert named == there - {"mmaml/__init__.py", "mmaml/__main__.py", "mmaml/__pycache__"}


def test_the_diagram_shows_the_floors_of_imports() -> None:
    """Every floor is in it, and its arrows lead downwards."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    floors = [re.findall(r"\w+", floor) for floor in settings["contracts"][0]["layers"]]
    height = {name: number for number, names in enumerate(reversed(floors)) for name in names}
    (diagram,) = blocks(section_of_architecture("The house"), "mermaid")
    labels = dict(re.findall(r"^ +(\w+)\[\"([\w, ]+)", diagram, flags=re.MULTILINE))
    assert {name for label in labels.values() for name in label.split(", ")} == set(height)
    arrows = re.findall(r"(\w+) --> (\w+)", diagram)
    assert {name for arrow in arrows for name in arrow} == set(labels)
    assert all(height[above] > height[below] for above, below in arrows)


# The comparison with published implementations.


def section_of_comparison(title: str) -> str:
    return COMPARISON.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_keys_that_are_compared_exist_and_all_are_there() -> None:
    section = section_of_comparison("Configuration keys")
    named = set(re.findall(r"`\"?([a-z_]+)\"?`", section)) - {EXTENDS, *ALIASES}
    assert named == set(KEYS)
    everywhere = re.findall(r"`\"?([a-z]+(?:_[a-z]+)+)\"?[`:]", COMPARISON)
    columns = {"n_timesteps", "episode_reward_mean", "episode_reward_mean_adapt_k", "adaptation_delta"}
    assert set(everywhere) - columns <= set(KEYS) | set(ALIASES)


def test_columns_that_are_compared_are_written(tmp_path: Path) -> None:
    """Of runs by every algorithm and update, on families that report success and blow-ups, with every option."""
    written: set[str] = set()
    runs: list[dict[str, Any]] = [{"algorithm": name, "env": "2DNavigation-v0"} for name in ALGORITHMS]
    runs += [{"algorithm": "maml", "env": "Reacher3LinkEnv"}, {"algorithm": "mmaml", "meta_update": "vpg"}]
    runs += [{"algorithm": "mgrl", "meta_lambda": True, "gae_lambda": 0.9}]
    for number, values in enumerate(runs):
        options = {"n_itr": 1, "log_grad_norm": True, "eval_interval": 1, "dump_path": str(tmp_path / str(number))}
        run(small_config(**values | options))
        columns = progress(tmp_path / str(number))[0]
        written |= {re.sub(r"(Step|KLCoeffInner|adapt)_\d+", r"\1_k", name) for name in columns}
    rows = re.findall(r"^\| (`.*?) \|", section_of_comparison("Output"), flags=re.MULTILINE)
    named = {re.sub(r"Step_[0K]", "Step_k", name) for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert named == written
