"""Made-up rollouts with ragged episodes, for tests of the mathematics that need no environment."""

from __future__ import annotations

import torch

from mmaml.policies.distributions import Categorical, Distribution, Gaussian
from mmaml.sampling.rollouts import Rollouts


def ragged_rollouts(
    tasks: int = 3,
    lanes: int = 4,
    horizon: int = 9,
    observation_size: int = 3,
    action_size: int = 2,
    collect: str = "lanes",
    actions: type[Distribution] = Gaussian,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Rollouts:
    """Episodes of many lengths. "lanes": they fill every lane; "episodes": one a lane, then padding of large junk."""
    g = torch.Generator().manual_seed(seed)
    shape = (tasks, lanes, horizon)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=g, dtype=dtype)

    terminated = torch.rand(shape, generator=g) < 0.25
    start = torch.cat([torch.ones(tasks, lanes, 1, dtype=torch.bool), terminated[..., :-1]], -1)
    truncated = torch.zeros(shape, dtype=torch.bool)
    truncated[..., -1] = ~start[..., 1:].any(-1) & ~terminated[..., -1]
    mask = torch.ones(shape, dtype=dtype)
    if collect == "episodes":
        mask = (start.cumsum(-1) == 1).to(dtype)
        start, terminated, truncated = (flag & (mask > 0) for flag in (start, terminated, truncated))
    junk = 1e3 * (1 - mask)
    mean, log_std = 0.1 * normal(*shape, action_size), 0.05 * normal(tasks, 1, 1, action_size) + 0.6
    noise = normal(*shape, action_size) * (mask[..., None])
    distribution: Distribution = Gaussian(mean, log_std)
    if actions is Categorical:
        distribution = Categorical(mean)
    data = Rollouts.recorded(
        normal(*shape, observation_size) + junk[..., None],
        distribution.sample(noise),
        normal(*shape) + junk,
        distribution,
        mask,
        start,
        terminated,
        truncated,
        final_observations=normal(tasks, lanes, observation_size),
        episode_noise=normal(*shape, 2),
    )
    data.advantages, data.value_targets = normal(*shape) * mask, normal(*shape) + junk
    data.identity = torch.arange(tasks) - 1
    first = torch.arange(horizon) - data.times()  # step at which the episode of a step started
    data.episode_noise = data.episode_noise.gather(2, first[..., None].expand_as(data.episode_noise))
    return data
