"""The columns of the log that hold returns."""

from __future__ import annotations

import numpy as np

Statistics = dict[str, np.ndarray]


def returns_row(sampled: Statistics, prefix: str = "") -> dict[str, float]:
    """Columns of the log for each stage of learning a task, and the number of physics blow-ups.

    Average, standard deviation, minimum and maximum are over all whole episodes of all tasks.
    """
    row: dict[str, float] = {}
    for step in range(sampled["return"].shape[1]):
        mean, episodes = sampled["return"][:, step], sampled["episodes"][:, step]
        second_moment = sampled["return_std"][:, step] ** 2 + mean**2
        average = float(np.average(mean, weights=episodes))
        variance = max(float(np.average(second_moment, weights=episodes)) - average**2, 0.0)
        name = f"{prefix}Step_{step}-"
        row[name + "AverageReturn"] = average
        row[name + "StdReturn"] = variance**0.5
        row[name + "MinReturn"] = float(sampled["return_min"][:, step].min())
        row[name + "MaxReturn"] = float(sampled["return_max"][:, step].max())
        row[name + "NumEpisodes"] = float(episodes.sum())
        if not np.isnan(sampled["success"]).all():
            row[name + "SuccessRate"] = float(np.average(sampled["success"][:, step], weights=episodes))
    if not np.isnan(sampled["blow_ups"]).all():
        row[prefix + "BlowUps"] = float(sampled["blow_ups"].sum())
    return row
