"""The way of feedback: one number a domain -> weights; numpy and scipy only.

Every class follows `base.Algorithm`: `update(signal) -> weights`, `state_dict`, `load_state_dict`.
Three kinds, and what to do with what `update` returns:

- sampling weights, online: `loader.set_weights(method.update(signal))`
  (ADO, Aioli, DGA, GRAPE, ODM, PiKE, RnB, SkillIt);
- loss weights of a proxy, online: weigh the loss; sample the main run by `average_weights`
  (DoGE, DoReMi);
- sampling weights, once before a run: `Loader(..., weights=method.update(signal))`
  (AutoScale, Chameleon, DataMixingLaws, ImportanceSampling, MixMin, Olmix, RegMix,
  TemperatureSampling, UniMax, UtiliMax).

Any weights pass through `capped_weights(weights, epoch_caps(sizes, budget, max_epochs))`, so that
no domain is repeated too often; `simulated_rows` cuts the domains of a small run down, so that it
repeats them as often as the large one will. `d4_kept` picks documents, before there are domains to
weigh. The formulas are pure functions in the modules of the methods.
"""

from mixstream.algorithms.ado import ADO
from mixstream.algorithms.aioli import Aioli
from mixstream.algorithms.autoscale import AutoScale, AutoScaleWarning
from mixstream.algorithms.base import Algorithm, State
from mixstream.algorithms.chameleon import Chameleon
from mixstream.algorithms.d4 import d4_kept
from mixstream.algorithms.ddo import PowerLaws, ddo_counts, ddo_weights, fit_power_laws
from mixstream.algorithms.dga import DGA
from mixstream.algorithms.doge import DoGE
from mixstream.algorithms.doremi import DoReMi, clipped_excess_loss, doremi_token_weights
from mixstream.algorithms.epoching import simulated_rows
from mixstream.algorithms.grape import GRAPE
from mixstream.algorithms.importance import ImportanceSampling, hierarchical_histogram
from mixstream.algorithms.mixing_law_fit import MixingLaws, fit_mixing_laws
from mixstream.algorithms.mixing_laws import DataMixingLaws
from mixstream.algorithms.mixmin import MixMin
from mixstream.algorithms.odm import ODM
from mixstream.algorithms.olmix import Olmix
from mixstream.algorithms.pike import PiKE
from mixstream.algorithms.regmix import RegMix, regmix_mixtures
from mixstream.algorithms.rnb import RnB
from mixstream.algorithms.simplex import capped_weights, epoch_caps, uniform_weights
from mixstream.algorithms.skillit import (
    SkillIt,
    approximate_graph,
    brute_force_graph,
    graph_from_edges,
)
from mixstream.algorithms.unimax import TemperatureSampling, UniMax
from mixstream.algorithms.utilimax import UtiliMax, medu_utilities

__all__ = [
    "ADO",
    "DGA",
    "GRAPE",
    "ODM",
    "Aioli",
    "Algorithm",
    "AutoScale",
    "AutoScaleWarning",
    "Chameleon",
    "DataMixingLaws",
    "DoGE",
    "DoReMi",
    "ImportanceSampling",
    "MixMin",
    "MixingLaws",
    "Olmix",
    "PiKE",
    "PowerLaws",
    "RegMix",
    "RnB",
    "SkillIt",
    "State",
    "TemperatureSampling",
    "UniMax",
    "UtiliMax",
    "approximate_graph",
    "brute_force_graph",
    "capped_weights",
    "clipped_excess_loss",
    "d4_kept",
    "ddo_counts",
    "ddo_weights",
    "doremi_token_weights",
    "epoch_caps",
    "fit_mixing_laws",
    "fit_power_laws",
    "graph_from_edges",
    "hierarchical_histogram",
    "medu_utilities",
    "regmix_mixtures",
    "simulated_rows",
    "uniform_weights",
]
