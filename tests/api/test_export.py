"""Exported policies do without this package, and act as the policy that they come of."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

import mmaml
from tests.helpers.policies import episode, trained
from tests.helpers.support import STEPPING, run, small_config

# Run where this package is not to be found. Their arguments: the exported file, inputs and the outputs they write.
TORCHSCRIPT = """
import sys
sys.modules["mmaml"] = None  # an import of it would fail
import numpy as np, torch
inputs = [torch.from_numpy(value) for value in np.load(sys.argv[2]).values()]
np.save(sys.argv[3], torch.jit.load(sys.argv[1])(*inputs).numpy())
"""
ONNX = """
import importlib.util, sys
import numpy as np, onnx.reference
sys.modules["mmaml"] = None  # an import of it would fail
inputs = dict(np.load(sys.argv[2]))
if importlib.util.find_spec("onnxruntime"):
    import onnxruntime
    run = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"]).run
else:
    run = onnx.reference.ReferenceEvaluator(sys.argv[1]).run
np.save(sys.argv[3], run(["action"], inputs)[0])
"""
needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="needs the package onnx")


def elsewhere(program: str, folder: Path, exported: Path, **inputs: np.ndarray) -> np.ndarray:
    """What the exported policy gives in an interpreter of its own."""
    np.savez(folder / "inputs.npz", **inputs)
    files = [str(exported), str(folder / "inputs.npz"), str(folder / "outputs.npy")]
    done = subprocess.run([sys.executable, "-I", "-c", program, *files], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "outputs.npy")


def adapted(folder: Path, algorithm: str, env: str = "MetaPointEnvMomentumModes", **keys: Any) -> mmaml.TrainedPolicy:
    policy = mmaml.load(trained(folder, algorithm, env=env, **keys), seed=0, inner_lr=0.5)
    for step in range(2):
        episode(policy, 7, seed=step, lanes=3)
        policy.adapt()
    return policy


class Given:
    """A generator of numbers that are known."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def standard_normal(self, shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
        return self.numbers if dtype is np.float32 else np.zeros(shape)

    def gumbel(self, size: tuple[int, ...]) -> np.ndarray:
        return self.numbers


@pytest.mark.parametrize("env", ["MetaPointEnvMomentumModes", "CartPoleMassEnv"])
@pytest.mark.parametrize("algorithm", STEPPING)
def test_the_module_acts_as_the_policy(tmp_path: Path, algorithm: str, env: str) -> None:
    """Also drawn actions; with maesn, whose episodes draw a latent, at the latent's mean."""
    policy = adapted(tmp_path, algorithm, env)
    rng = np.random.default_rng(1)
    observations = 2 * rng.normal(size=(50, policy.spaces.observation_size)).astype(np.float32)
    noise = rng.normal(size=(50, 2)).astype(np.float32)
    module = policy.module()
    exact = policy.act(observations, deterministic=True)
    policy.start_episode()
    given: Any = Given(noise)
    drawn = policy.act(observations, rng=given)
    with torch.no_grad():
        found = module(torch.from_numpy(observations)), module(torch.from_numpy(observations), torch.from_numpy(noise))
    np.testing.assert_allclose(found[0].numpy(), exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1].numpy(), drawn, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "keys"),
    [
        ("mmaml", {}),
        ("cavia", {"hidden_nonlinearity": "relu", "normalization_scale": 0.5}),
        ("maml", {"env": "CartPoleMassEnv"}),
        ("maml", {"env": "tests.helpers.user_environments:WholeNumbers"}),
    ],
)
@pytest.mark.parametrize("way", ["torchscript", pytest.param("onnx", marks=needs_onnx)])
def test_exported_policies_act_alike_without_this_package(
    tmp_path: Path, algorithm: str, keys: dict[str, Any], way: str
) -> None:
    policy = adapted(tmp_path, algorithm, **keys)
    rng = np.random.default_rng(1)
    observation = 2 * rng.normal(size=(20, policy.spaces.observation_size)).astype(np.float32)
    noise = rng.normal(size=(20, 2)).astype(np.float32)
    with torch.no_grad():
        drawn = policy.module()(torch.from_numpy(observation), torch.from_numpy(noise)).numpy()
    plain, noisy = tmp_path / "new" / "plain", tmp_path / "new" / "noisy"
    if way == "onnx":
        policy.export_onnx(plain)
        policy.export_onnx(noisy, noise=True)
    else:
        policy.export_torchscript(plain)
        policy.export_torchscript(noisy)
    program = ONNX if way == "onnx" else TORCHSCRIPT
    found = elsewhere(program, tmp_path, plain, observation=observation)
    expected = policy.act(observation, deterministic=True)
    assert found.dtype == (np.int64 if isinstance(policy.spaces.actions, Discrete) else np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    found = elsewhere(program, tmp_path, noisy, observation=observation, noise=noise)
    np.testing.assert_allclose(found, drawn, rtol=1e-4, atol=1e-5)


def test_a_missing_onnx_and_a_folder_that_cannot_be_written_are_errors_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = mmaml.load(trained(tmp_path))
    (tmp_path / "file").touch()
    for write in (policy.export_torchscript, policy.save):
        with pytest.raises(mmaml.UsageError, match="path"):
            write(tmp_path / "file" / "policy")  # type: ignore[operator]
        with pytest.raises(mmaml.UsageError, match="path"):
            write(tmp_path)  # type: ignore[operator]
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(mmaml.UsageError, match=r"onnx: is not installed; .* pip install"):
        policy.export_onnx(tmp_path / "policy.onnx")


def test_an_exported_policy_normalises_observations_as_in_training(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(small_config("promp", env="CartPoleMassEnv", normalize_observations=True, dump_path=str(path)))
    policy = mmaml.load(path)
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    seen = policy._seen(torch.from_numpy(observations))
    assert (seen - torch.from_numpy(observations)).abs().max() > 0.1
    params, network = policy._algorithm.policy_params(policy._state), policy.module().network
    expected = policy._algorithm.policy.distribution(params, seen[None]).logits[0]  # type: ignore[attr-defined]
    torch.testing.assert_close(network(torch.from_numpy(observations)), expected)  # type: ignore[operator]
    if importlib.util.find_spec("onnx") is not None:
        policy.export_onnx(tmp_path / "policy.onnx")
        actions = elsewhere(ONNX, tmp_path, tmp_path / "policy.onnx", observation=observations)
        np.testing.assert_array_equal(actions, expected.argmax(-1))
