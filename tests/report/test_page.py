"""The page says all there is to say, stands alone, and renders in a browser."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mmaml.report.gather import gather
from mmaml.report.page import page
from tests.helpers.reported import write_evaluation, write_run

VOID = {"meta", "img", "br"}
BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)


class Reader(HTMLParser):
    """Collects text, attributes and table headers; every tag that is opened has to be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.texts))


def sweep(folder: Path) -> Path:
    """Two experiments of two seeds: the better is evaluated in two modes; the other has one run that was continued."""
    for seed in (1, 2):
        returns = [[-30.0, -20.0 - seed], [-30.0, -10.0 - seed]]
        better = write_run(folder / "a<b>&amp" / f"seed_{seed}", returns, seed=seed, learning_rate=0.1)
        write_evaluation(better, np.array([[-9.0, -4.0], [-9.0, -2.0 * seed]]), [0, 3], success=0.5)
        write_run(folder / "worse" / f"seed_{seed}", returns * seed, seed=seed, learning_rate=0.2, n_itr=2 * seed)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> str:
    return page(gather([("", sweep(tmp_path))]), "A <title> & more", "today")


def test_every_run_and_every_key_that_differs_is_there(text: str, tmp_path: Path) -> None:
    shown = Reader(text).text
    for run in tmp_path.glob("*/seed_?"):
        assert str(run) in shown
    assert re.search(r"learning_rate 0\.1 0\.2 n_itr 2 2, 4", shown)
    for needed in ("0123abc-dirty", "torch 2.13.0", "tensorboard –", "evaluation.json after iteration 4", "mode 3"):
        assert needed in shown
    assert "training tasks, the last 10 iterations of progress.csv" in shown and "50.0%" in shown
    assert "0:00:04 0:00:06" in shown  # wall and CPU time of two iterations
    assert "after 1 step -3.50 [-4.00, -3.00] 50.0% -4.00 [-4.00, -4.00] -3.00 [-4.00, -2.00]" in shown


def test_iterations_of_evaluations_are_in_order_whatever_texts_hash_to(tmp_path: Path) -> None:
    for seed, iteration in enumerate((600, 50, 300, 100, 500, 200, 400)):
        run = write_run(tmp_path / str(seed), [[-30.0, -20.0]], seed=seed)
        write_evaluation(run, np.array([[-9.0, -4.0]]), [0], iteration=iteration)
    shown = Reader(page(gather([("", tmp_path)]), "title", "today")).text
    assert "evaluation.json after iteration 50, 100, 200, 300, 400, 500, 600" in shown


def test_modes_that_have_names_are_called_by_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[-30.0, -20.0]], seed=1)
    returns, success = np.array([[-9.0, -4.0], [-9.0, -2.0]]), np.array([[0.0, 0.25], [0.5, 1.0]])
    write_evaluation(run, returns, [0, 1], success, mode_names=["push-v3", "sweep-v3"])
    shown = Reader(page(gather([("", run)]), "title", "today")).text
    assert "success stage push-v3 sweep-v3 before adaptation 0.0% 50.0% after 1 step 25.0% 100.0%" in shown
    assert "after 1 step -3.00 62.5% -4.00 -2.00" in shown
    assert "stage all tasks success push-v3 sweep-v3" in shown and "mode 1" not in shown


def test_text_is_escaped(text: str) -> None:
    assert "A &lt;title&gt; &amp; more" in text and "<title> &" not in text
    assert "a&lt;b&gt;&amp;amp/seed_1" in text


def test_the_page_stands_alone(text: str) -> None:
    reader = Reader(text)
    assert (
        not {tag for tag, _, _ in reader.attributes} & {"script", "link", "iframe", "object"} and "<script" not in text
    )
    links = [value for _, name, value in reader.attributes if name in ("src", "href", "srcset", "data", "poster")]
    assert links and all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert not re.search(r"url\(|@import", text)
    picture = base64.b64decode(links[0].partition(",")[2]).decode()
    assert re.findall(r"(?:xlink:href|href)=\"([^#\"][^\"]*)", picture) == []
    assert ("img", "alt") in {(tag, name) for tag, name, _ in reader.attributes}


def test_tables_have_captions_and_headers_with_a_scope(text: str) -> None:
    assert text.count("<caption>") == text.count("<table") > 4
    assert "<th>" not in text and text.count('scope="col"') > 10 and text.count('scope="row"') > 10


def test_experiments_are_compared_where_their_returns_are_of_a_kind(tmp_path: Path) -> None:
    """Not those of training with those of held-out tasks, nor those of other environments."""
    sweep(tmp_path)
    assert "Probability of improvement" not in page(gather([("", tmp_path)]), "", "")
    for file in tmp_path.rglob("evaluation.json"):
        file.unlink()
    for seed in (1, 2):
        write_run(tmp_path / "other" / str(seed), [[-1.0, 0.0]], seed=seed, env="2DNavigation-v0")
    text = Reader(page(gather([("", tmp_path)]), "", "")).text
    compared = text.partition("Probability of improvement")[2].partition("What differs")[0]
    assert "0.50 [" in compared and "2DNavigation-v0" not in compared


def test_steps_of_adaptation_and_episodes_of_a_trial_are_compared(tmp_path: Path) -> None:
    """Both are returns per episode, where the environment and its arguments are the same."""
    write_run(tmp_path / "maml", [[-3.0, -1.0]])
    write_run(tmp_path / "rl2", [[-3.0, -2.0]], algorithm="rl2", episodes_per_trial=2)
    text = page(gather([("Steps", tmp_path / "maml"), ("Trials", tmp_path / "rl2")]), "", "")
    shown = Reader(text).text
    assert text.count("<img") == 1 and "last return (after 1 step, episode 2)" in shown
    assert re.search(r"better than → Steps Trials Steps 1\.00 Trials 0\.00", shown)


def test_the_whole_trial_has_a_line_where_stages_are_episodes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[1.0, 2.0]])
    write_evaluation(run, np.array([[1.0, 2.0], [3.0, 4.0]]), [0, 0], by_episode=True)
    shown = Reader(page(gather([("", run)]), "", "")).text
    assert re.search(r"episode 2 3\.00 \[.*\] whole trial 5\.00 \[3\.00, 7\.00\]", shown)
    assert "mmaml 1 2.00 [1.00, 3.00] 3.00 [2.00, 4.00] 1,000" in shown  # at a glance: first and last episode


def test_returns_of_other_tasks_are_not_compared(tmp_path: Path) -> None:
    """Those of held-out tasks with those of training's."""
    for split, rate in (("test", 0.1), ("train", 0.2)):
        run = write_run(tmp_path / split, [[-3.0, -1.0]], learning_rate=rate)
        write_evaluation(run, np.array([[-9.0, -4.0]]), [0], split=split)
    assert "Probability of improvement" not in page(gather([("", tmp_path)]), "", "")
    write_run(tmp_path / "other", [[-3.0, -1.0]], learning_rate=0.3)
    write_evaluation(tmp_path / "other", np.array([[-9.0, -4.0]]), [0], split="train")
    shown = Reader(page(gather([("", tmp_path)]), "", "")).text
    assert "MetaPointEnvMomentumModes , train tasks better than" in shown
    assert "learning_rate 0.1 (held-out tasks) 1 -9.00" in shown and "learning_rate 0.2 (train tasks) 1 -9.00" in shown


def test_returns_of_other_modes_are_not_compared(tmp_path: Path) -> None:
    for name, rate, mode in (("a", 0.1, 0), ("b", 0.2, 0), ("c", 0.3, 1)):
        run = write_run(tmp_path / name, [[-3.0, -1.0]], learning_rate=rate)
        write_evaluation(run, np.array([[-9.0, -rate]]), [mode])
    shown = Reader(page(gather([("A", tmp_path / "a"), ("B", tmp_path / "b"), ("C", tmp_path / "c")]), "", "")).text
    assert "better than → A B A 1.00 B 0.00 What differs" in shown


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_renders_the_page(text: str, tmp_path: Path) -> None:
    """The picture is there, nothing is wider than the window, and nothing is logged."""
    assert BROWSER is not None
    probe = (
        "<script>addEventListener('load', () => { const image = document.images[0];"
        "document.body.append('FOUND ' + [image.complete && image.naturalWidth > 300,"
        "document.documentElement.scrollWidth <= innerWidth, document.querySelectorAll('tbody tr').length > 9]"
        ".join(' ')); });</script></body>"
    )
    (tmp_path / "report.html").write_text(text.replace("</body>", probe), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=600,800"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    command = [BROWSER, *flags, (tmp_path / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "FOUND true true true" in done.stdout
    assert "CONSOLE" not in done.stderr
