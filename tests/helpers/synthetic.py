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
    last = torch.zeros(shape, dtype=torch.bool)
    last[..., -1] = mask[..., -1] > 0
    junk = 1e3 * (1 - mask)
    mean, log_std = 0.1 * normal(*shape, action_size), 0.05 * normal(tasks, 1, 1, action_size) + 0.6
    noise = normal(*shape, action_size) * (mask[..., None])
    distribution: Distribution = Gaussian(mean, log_std)
    if actions is Categorical:
        distribution = Categorical(mean)
    drawn = distribution.sample(noise)
    advantages = normal(*shape) * mask
    return Rollouts(
        observations=normal(*shape, observation_size) + junk[..., None],
        actions=drawn,
        rewards=normal(*shape) + junk,
        distribution=distribution,
        log_probs=distribution.log_prob(drawn),
        mask=mask,
        weights=mask / mask.sum((1, 2), keepdim=True),
        episode_start=start,
        terminated=terminated,
        truncated=truncated,
        episode_end=terminated | truncated | last,
        final_observations=normal(tasks, lanes, observation_size),
        advantages=advantages,
        value_targets=normal(*shape) + junk,
        episode_noise=_held(normal(*shape, 2), start),
        task_index=torch.arange(tasks),
        identity=torch.arange(tasks) - 1,
        success=torch.full(shape, torch.nan),
        blow_ups=torch.full((tasks,), torch.nan),
    )


def _held(values: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """At every step, the value of the step at which its episode started; on padding, some value."""
    index = torch.arange(start.shape[-1]) * start
    latest = index.cummax(-1).values
    return values.gather(2, latest[..., None].expand_as(values))
