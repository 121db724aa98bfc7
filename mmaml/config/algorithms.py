"""The algorithms by name, each as "package.module:ClassName". What there is to know of one is in its file."""

from __future__ import annotations

ALGORITHMS = {
    "mmaml": "mmaml.algorithms.mmaml:MMAML",
    "promp": "mmaml.algorithms.promp:ProMP",
    "maml": "mmaml.algorithms.maml:MAML",
    "e_maml": "mmaml.algorithms.e_maml:EMAML",
    "dice": "mmaml.algorithms.dice:DiCE",
    "meta_sgd": "mmaml.algorithms.meta_sgd:MetaSGD",
    "tesp": "mmaml.algorithms.tesp:TESP",
    "rllib_maml": "mmaml.algorithms.rllib_maml:RLlibMAML",
    "cavia": "mmaml.algorithms.cavia:CAVIA",
    "maesn": "mmaml.algorithms.maesn:MAESN",
    "rl2": "mmaml.algorithms.rl2:RL2",
    "snail": "mmaml.algorithms.snail:SNAIL",
    "epn": "mmaml.algorithms.epn:EPN",
    "varibad": "mmaml.algorithms.varibad:VariBAD",
    "mgrl": "mmaml.algorithms.mgrl:MGRL",
}
# What trains where neither the configuration nor the run script names one.
DEFAULT_ALGORITHM = "mmaml"
