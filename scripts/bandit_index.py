"""What the index policy earns on Bernoulli bandits, where the best possible return is too much to compute.

python scripts/bandit_index.py --arms 5 --pulls 100

Pull the arm of the largest index: the reward a pull for which one would as soon give the arm up until the end of the
trial, given how often it gave 1 and 0 (Whittle 1980; Gittins's index, with the pulls that are left in place of a
discount). No policy that is known does better on finite trials; it may be a little below the best possible. The means
of the arms are U(0, 1), as those of `BernoulliBandit`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.cli.arguments import check_integers, whole_number
from mmaml.cli.script import Parser, one_line_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVELS = 401  # of the reward a pull that an arm is compared with, from 0 to 1
RANGES = {"arms": (1, 100), "pulls": (1, 200), "trials": (2, 1_000_000)}


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Print the mean return over trials. The exit code."""
    parser = Parser("bandit_index.py", description=__doc__)
    parser.add_argument("--arms", type=whole_number, default=5, metavar="K", help="arms of the bandit (default: 5)")
    parser.add_argument("--pulls", type=whole_number, default=100, metavar="T", help="pulls of a trial (default: 100)")
    parser.add_argument("--trials", type=whole_number, default=100_000, metavar="N", help="trials (default: 100000)")
    arguments = parser.parse_args(argv)
    check_integers(arguments, RANGES)
    mean, error = index_policy_return(arguments.arms, arguments.pulls, arguments.trials)
    print(f"{mean:.3f} ± {error:.3f} (standard error of the mean over {arguments.trials:,} trials)")
    return 0


def index_policy_return(arms: int, pulls: int, trials: int) -> tuple[float, float]:
    """Mean return of a trial, and the standard error of the mean."""
    import numpy as np

    index = indices(pulls)
    rng = np.random.default_rng(0)
    means = rng.random((trials, arms))
    ones, zeros = (np.zeros((trials, arms), int) for _ in range(2))
    returns, each = np.zeros(trials), np.arange(trials)
    for left in range(pulls, 0, -1):
        arm = index[left - 1][ones, zeros].argmax(1)
        reward = rng.random(trials) < means[each, arm]
        ones[each, arm] += reward
        zeros[each, arm] += ~reward
        returns += reward
    return float(returns.mean()), float(returns.std() / trials**0.5)


def indices(pulls: int) -> NDArray[np.float32]:
    """The index of an arm with 1, 2, … pulls left, that gave 1 i times and 0 j times: [pulls, pulls, pulls].

    By dynamic programming: with n pulls left, an arm of mean m = (i + 1) / (i + j + 2) that may be given up at any time
    for a sure reward λ a pull is worth
        W_n(i, j, λ) = max[ n λ,  m (1 + W_{n-1}(i + 1, j, λ)) + (1 - m) W_{n-1}(i, j + 1, λ) ]
    and its index is the smallest λ, of `LEVELS`, with which giving it up is best.
    """
    import numpy as np

    sure = np.linspace(0, 1, LEVELS, dtype=np.float32)
    found = np.zeros((pulls, pulls, pulls), np.float32)
    worth = np.zeros((pulls + 1, pulls + 1, LEVELS), np.float32)
    for left in range(1, pulls + 1):
        given = np.arange(pulls - left + 1)  # how often it may have given 1, or 0
        mean = ((given[:, None] + 1) / (given[:, None] + given + 2)).astype(np.float32)[..., None]
        size = len(given)
        pulled = mean * (1 + worth[1 : size + 1, :size]) + (1 - mean) * worth[:size, 1 : size + 1]
        better = pulled > sure * left + 1e-5  # beyond rounding
        found[left - 1, :size, :size] = sure[np.minimum(better.sum(-1), LEVELS - 1)]
        worth[:size, :size] = np.maximum(pulled, sure * left)
    return found


if __name__ == "__main__":
    sys.exit(main())
