"""What the master does with a meta-batch: epochs, minibatches, annealing, Adam's steps, the KL coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmaml.algorithms.promp import ProMP
from mmaml.config.loading import load_config
from mmaml.policies.distributions import Gaussian
from mmaml.policies.params import ParamSpec
from mmaml.updates.adam import Adam
from mmaml.updates.evaluate import Question
from mmaml.updates.outer_step import Proximal, adapted_coefficient, bounded
from tests.helpers.objectives import as_if_sampled, setting

TASKS = 6
TARGET = 0.02
LOW, RIGHT, HIGH = 0.01, 0.02, 0.04  # a KL below, about and above the target


class FakeEvaluate:
    """Records its calls; made-up gradients, the KLs of the last call differing from those of the gradients."""

    tasks = range(TASKS)

    def __init__(self, gradients: np.ndarray, kls: tuple[float, float], kl_outer: float) -> None:
        self.gradients = gradients
        self.after = {"inner_kl": np.array(kls), "outer_kl": np.array(kl_outer)}
        self.calls: list[tuple[str, list[int] | None, torch.Tensor, dict[str, Any]]] = []

    def __call__(self, question: Question) -> dict[str, np.ndarray]:
        tasks = None if question.tasks is None else list(question.tasks)
        self.calls.append((question.function, tasks, question.parameters.clone(), dict(question.options)))
        chosen = list(range(TASKS)) if tasks is None else tasks
        ones = np.ones(len(chosen), np.float32)
        if question.function == "meta_gradient":
            values = {"inner_kl": np.array([RIGHT, RIGHT]), "outer_kl": np.array(RIGHT)}
            result = {"gradient": self.gradients[chosen], "loss": 3 * ones, "clip_fraction": 0.5 * ones}
        else:
            values = self.after
            result = {"loss": 2 * ones, "clip_fraction": 0.25 * ones}
        return result | {"surrogate": ones} | {name: np.stack([value] * len(chosen)) for name, value in values.items()}


def _algorithm(**overrides: Any) -> ProMP:
    settings: dict[str, Any] = {
        "hidden_sizes": [3],
        "meta_batch_size": TASKS,
        "num_inner_grad_steps": 2,
        "num_promp_steps": 3,
        "learning_rate": 0.01,
    }
    return ProMP(load_config(None, settings | overrides, "promp"), 3, 2, Gaussian)


def _proximal(algo: ProMP) -> Proximal:
    assert isinstance(algo.meta_update, Proximal)
    return algo.meta_update


def _update(
    algo: ProMP,
    iteration: int,
    gradients: np.ndarray | None = None,
    kls: tuple[float, float] = (RIGHT, RIGHT),
    kl_outer: float = RIGHT,
) -> tuple[FakeEvaluate, torch.Tensor, dict[str, float]]:
    """One update from zero parameters; every task's gradient is the same when none are given."""
    if gradients is None:
        gradients = np.tile(_signs(algo), (TASKS, 1))
    evaluate = FakeEvaluate(gradients, kls, kl_outer)
    parameters, row = algo.update(torch.zeros(algo.spec.total), evaluate, iteration)
    return evaluate, parameters, row


def _signs(algo: ProMP) -> np.ndarray:
    """+5, -5, +5, …: [P]."""
    return np.where(np.arange(algo.spec.total) % 2, -5.0, 5.0).astype(np.float32)


@pytest.mark.parametrize("minibatches", [1, 2, 4])
def test_every_epoch_takes_every_task_once(minibatches: int) -> None:
    evaluate, _, _ = _update(_algorithm(num_minibatches=minibatches), 0)
    *steps, last = evaluate.calls
    assert [function for function, *_ in steps] == ["meta_gradient"] * (3 * minibatches)
    assert last[:2] == ("meta_loss", None)
    for epoch in range(3):
        parts = [tasks or [] for _, tasks, _, _ in steps[epoch * minibatches : (epoch + 1) * minibatches]]
        assert sorted(task for part in parts for task in part) == list(range(TASKS))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_epoch_of_every_iteration_deals_the_tasks_anew() -> None:
    dealt = []
    for iteration in (0, 1):
        evaluate, _, _ = _update(_algorithm(num_minibatches=2), iteration)
        dealt += [tuple(tasks or []) for _, tasks, _, _ in evaluate.calls[:-1:2]]  # the first half of each epoch
    assert len(dealt) == 2 * 3 and len({*dealt}) > 3


@pytest.mark.parametrize("iteration", [0, 1, 4])
def test_annealing_is_by_the_power_of_the_iteration(iteration: int) -> None:
    algo = _algorithm(clip_eps=0.3, anneal_factor=0.5, learning_rate_anneal=0.8)
    evaluate, parameters, row = _update(algo, iteration)
    assert row["ClipEps"] == pytest.approx(0.3 * 0.5**iteration, rel=1e-12)
    for _, _, _, options in evaluate.calls:
        assert options["clip_eps"] == pytest.approx(0.3 * 0.5**iteration, rel=1e-12)
    # Under a constant gradient each of Adam's steps is the step size against the gradient's sign.
    at = [values for _, _, values, _ in evaluate.calls]
    expected = -0.01 * 0.8**iteration * torch.from_numpy(np.sign(_signs(algo)))
    for before, after in zip(at, at[1:], strict=False):
        torch.testing.assert_close(after - before, expected, rtol=1e-4, atol=0)
    assert torch.equal(at[-1], parameters)


def test_the_gradient_is_the_mean_over_tasks() -> None:
    algo = _algorithm(num_promp_steps=1)
    gradients = np.tile(_signs(algo), (TASKS, 1))
    gradients[0] *= -1
    gradients[-1] *= -1
    _, parameters, _ = _update(algo, 0, gradients)
    torch.testing.assert_close(parameters, -0.01 * torch.from_numpy(np.sign(_signs(algo))), rtol=1e-4, atol=0)
    moment = _proximal(algo).optimizer.state_dict()["state"][0]["exp_avg"]
    torch.testing.assert_close(moment, 0.1 * torch.from_numpy(gradients.mean(0)), rtol=1e-5, atol=0)


def test_kl_coefficients_adapt_from_the_kl_after_the_last_step() -> None:
    algo = _algorithm(
        init_inner_kl_penalty=0.5,
        init_outer_kl_penalty=0.25,
        adaptive_inner_kl_penalty=True,
        adaptive_outer_kl_penalty=True,
        target_inner_step=TARGET,
        target_outer_step=TARGET,
    )
    evaluate, _, row = _update(algo, 0, kls=(HIGH, LOW), kl_outer=HIGH)
    for _, _, _, options in evaluate.calls:
        assert options["kl_coefficients"] == [0.5, 0.5] and options["outer_kl_coefficient"] == 0.25
    assert (row["KLCoeffInner_0"], row["KLCoeffInner_1"], row["KLCoeffOuter"]) == (0.5, 0.5, 0.25)
    assert _proximal(algo).kl_coefficients == [1.0, 0.25] and _proximal(algo).outer_kl_coefficient == 0.5

    evaluate, _, _ = _update(algo, 1, kls=(RIGHT, HIGH), kl_outer=LOW)
    for _, _, _, options in evaluate.calls:
        assert options["kl_coefficients"] == [1.0, 0.25] and options["outer_kl_coefficient"] == 0.5
    assert _proximal(algo).kl_coefficients == [1.0, 0.5] and _proximal(algo).outer_kl_coefficient == 0.25


def test_kl_coefficients_go_on_from_their_state() -> None:
    values = {"init_inner_kl_penalty": 0.5, "init_outer_kl_penalty": 0.25}
    algo, again = _algorithm(**values), _algorithm(**values)
    _proximal(algo).kl_coefficients, _proximal(algo).outer_kl_coefficient = [1.0, 0.25], 2.0
    again.load_state_dict(algo.state_dict())
    assert _proximal(again).kl_coefficients == [1.0, 0.25] and _proximal(again).outer_kl_coefficient == 2.0


def test_kl_coefficients_stay_where_they_do_not_adapt() -> None:
    algo = _algorithm(init_inner_kl_penalty=0.5, init_outer_kl_penalty=0.25)
    _update(algo, 0, kls=(HIGH, LOW), kl_outer=HIGH)
    assert _proximal(algo).kl_coefficients == [0.5, 0.5] and _proximal(algo).outer_kl_coefficient == 0.25


def test_the_row_holds_the_losses_before_and_after() -> None:
    _, _, row = _update(_algorithm(), 0, kls=(HIGH, LOW), kl_outer=HIGH)
    expected = {"LossBefore": 3, "LossAfter": 2, "KLInner": (HIGH + LOW) / 2, "KLOuter": HIGH, "ClipFraction": 0.25}
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "kl, factor",
    [(0.0, 0.5), (0.0133, 0.5), (0.0134, 1), (0.02, 1), (0.0299, 1), (0.0301, 2), (0.2, 2), (1.0, 2)],
)
def test_a_coefficient_halves_below_and_doubles_above_one_and_a_half_times_the_target(kl: float, factor: float) -> None:
    assert adapted_coefficient(0.6, kl, 0.02) == pytest.approx(0.6 * factor, rel=1e-12)


def test_a_policy_gradient_update_is_one_step_on_the_plain_objective() -> None:
    algo = _algorithm(meta_update="vpg", learning_rate_anneal=0.5)
    evaluate = FakeEvaluate(np.tile(_signs(algo), (TASKS, 1)), (RIGHT, RIGHT), RIGHT)
    parameters, row = algo.update(torch.zeros(algo.spec.total), evaluate, 2)
    assert [(function, options) for function, _, _, options in evaluate.calls] == [
        ("meta_gradient", {}),
        ("meta_loss", {}),
    ]
    torch.testing.assert_close(parameters, -0.01 * 0.25 * torch.from_numpy(np.sign(_signs(algo))), rtol=1e-4, atol=0)
    assert {"LossBefore", "LossAfter", "KLInner", "KLOuter"} == set(row)


@pytest.mark.parametrize("algorithm", ["maml", "dice", "e_maml"])
def test_its_gradient_is_the_policy_gradient_through_the_inner_step(algorithm: str) -> None:
    """At the sampling parameters, that of -mean log π Â in place of -mean r Â."""
    algo, flat, rollouts, _ = setting(algorithm, 2)
    as_if_sampled(algo, flat, rollouts)
    zero = torch.zeros(3, dtype=torch.float64)
    ours = algo.meta_gradient(flat, rollouts, zero)["gradient"]
    meta = algo.spec.per_task(flat, 3)
    state = algo.begin(meta, rollouts[0].identity)
    for k in range(2):
        state, _ = algo.inner_step(meta, state, rollouts[: k + 1], create_graph=True)
    last = rollouts[-1]
    log_probs = algo.distribution(state, last).log_prob(last.flat("actions"))
    loss = -(log_probs * last.flat("advantages") * last.flat("weights")).sum()
    gradients = torch.autograd.grad(loss, list(meta.values()))
    expected = algo.spec.flatten_per_task(dict(zip(meta, gradients, strict=True)))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


def test_adam_is_torchs_to_the_bit_and_goes_on_from_its_state() -> None:
    numbers = torch.Generator().manual_seed(3)
    values = torch.randn(101, generator=numbers).requires_grad_()
    expected, ours = torch.optim.Adam([values], lr=0.01), Adam(0.01, 101)
    assert ours.state_dict() == expected.state_dict()
    parameters = values.detach().clone()
    for step in range(12):
        expected.param_groups[0]["lr"] = ours.learning_rate = 0.01 * 0.9**step
        values.grad = torch.randn(101, generator=numbers) * 10.0 ** torch.arange(-50, 51).mul(0.4)
        parameters = ours.step(parameters, values.grad)
        expected.step()
        assert torch.equal(parameters, values)
        if step == 5:
            ours = Adam(1.0, 101)
            ours.load_state_dict(expected.state_dict())
    state, state_expected = ours.state_dict(), expected.state_dict()
    assert state["param_groups"] == state_expected["param_groups"]
    assert state["state"].keys() == state_expected["state"].keys()
    for name, moment in state_expected["state"][0].items():
        assert torch.equal(state["state"][0][name], moment)


def test_a_gradient_that_is_too_long_is_scaled_down_to_the_norm() -> None:
    gradient = torch.tensor([3.0, 0.0, -4.0])
    for norm in (None, 5.0, 6.0):
        assert torch.equal(bounded(gradient, norm), gradient)
    torch.testing.assert_close(bounded(gradient, 0.5), gradient / 10)


def test_adam_steps_by_the_bounded_gradient_and_the_log_has_the_norm_before() -> None:
    algo = _algorithm(num_promp_steps=1, max_grad_norm=1.0, log_grad_norm=True)
    _, _, row = _update(algo, 0)
    whole = torch.from_numpy(_signs(algo))
    moment = _proximal(algo).optimizer.state_dict()["state"][0]["exp_avg"]
    torch.testing.assert_close(moment, 0.1 * whole / whole.norm())
    assert row["GradNorm-all"] == pytest.approx(float(whole.norm()))


class Quadratic(FakeEvaluate):
    """KL = c ‖θ‖² / P, as far from parameters that are 0 as from those that sampled."""

    curvature = 1e4

    def __call__(self, question: Question) -> dict[str, np.ndarray]:
        self.after["outer_kl"] = np.array(self.curvature * float(question.parameters.square().mean()))
        return super().__call__(question)


@pytest.mark.parametrize("limit, fraction", [(None, None), (10.0, 1.0), (8.0, 0.5), (0.6, 0.25), (1e-6, 0.0)])
def test_of_an_update_beyond_the_kl_a_half_a_quarter_or_nothing_is_made(
    limit: float | None, fraction: float | None
) -> None:
    """Three steps of Adam by 0.01 under a constant gradient have a KL of 9."""
    algo = _algorithm(max_outer_kl=limit, init_outer_kl_penalty=1.0, adaptive_outer_kl_penalty=True)
    evaluate = Quadratic(np.tile(_signs(algo), (TASKS, 1)), (RIGHT, RIGHT), RIGHT)
    parameters, row = algo.update(torch.zeros(algo.spec.total), evaluate, 0)
    assert row.get("LineSearchStep") == fraction
    made = 1.0 if fraction is None else fraction
    expected = -0.03 * made * torch.from_numpy(np.sign(_signs(algo)))
    torch.testing.assert_close(parameters, expected, rtol=1e-3, atol=0)
    assert row["KLOuter"] == pytest.approx(9 * made**2, rel=1e-3)  # of the update that is made
    assert torch.equal(evaluate.calls[-1][2], parameters)
    assert _proximal(algo).outer_kl_coefficient == 2.0  # by the KL of the whole update, which is too large


def test_a_kl_that_is_not_a_number_is_beyond_every_limit() -> None:
    algo = _algorithm(max_outer_kl=1.0, init_outer_kl_penalty=1.0, adaptive_outer_kl_penalty=True)
    evaluate = Quadratic(np.tile(_signs(algo), (TASKS, 1)), (RIGHT, RIGHT), RIGHT)
    evaluate.curvature = float("nan")
    parameters, row = algo.update(torch.zeros(algo.spec.total), evaluate, 0)
    assert not parameters.any() and row["LineSearchStep"] == 0
    assert _proximal(algo).outer_kl_coefficient == 2.0


def test_adam_refuses_the_moments_of_another_network() -> None:
    others = Adam(0.1, 3)
    others.step(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"exp_avg(_sq)?: expected a tensor \[4\], got \[3\]"):
        Adam(0.1, 4).load_state_dict(others.state_dict())


def test_networks_are_slices_of_the_flat_vector() -> None:
    spec = ParamSpec({"a.0.weight": (2, 3), "a.0.bias": (1, 3), "b": (4,)})
    assert (spec.slice_of("a"), spec.slice_of("b")) == (slice(0, 9), slice(9, 13))
    assert spec.networks() == {"a": ["a.0.weight", "a.0.bias"], "b": ["b"]}
    with pytest.raises(ValueError, match="network: expected consecutive parameters of 'a'"):
        ParamSpec({"a.x": (1,), "b": (1,), "a.y": (1,)}).slice_of("a")
