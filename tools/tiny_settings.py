"""What a run of train_tiny depends on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A run; with the same settings it takes the same steps."""

    corpus: str
    """What to train on."""
    method: str = "uniform"
    """One of METHODS."""
    eval: str | None = None
    """A corpus to measure on; None holds out rows of the corpus."""
    target: str | None = None
    """A corpus to be good at (not for odm, ado, pike, aioli, chameleon); None aims at all domains
    alike."""
    weights: str | None = None
    """fixed: a JSON list of K numbers, in the order of the corpus's domains."""
    graph: str = "learned"
    """skillit: a JSON file with a (K, M) list, rows train columns (M: the target's domains, or the
    corpus's without one); or "learned"."""
    graph_steps: int = 20
    """skillit: steps of each of the K short runs that a graph is learned from."""
    proxy_runs: int = 16
    """regmix, mixing_laws, olmix: short runs on random mixtures; more than K."""
    proxy_steps: int = 20
    """regmix, mixing_laws, olmix: steps of each; utilimax, mixmin: of the K runs, each on one
    domain; chameleon: of its one run; autoscale: of the base run at the smaller of two budgets."""
    window: int = 3
    """skillit: the measurements that are summed."""
    steps: int = 300
    """Of each phase."""
    batch_size: int = 16
    """Rows a step, over all ranks."""
    eval_rows: int = 64
    """Rows of each domain that are measured."""
    seed: int = 0
    """Of the model and of the order."""
    width: int = 128
    """Of the model, a multiple of 32."""
    layers: int = 4
    """Blocks of the model."""
    peak_rate: float = 1e-3
    """Learning rate after the warm-up; a cosine takes it to a tenth."""
    dtype: str = "float32"
    """Of parameters and activations; float64 to compare runs."""
    sampling: str = "independent"
    """Of the loader; or stratified, or micro_batch: one domain a batch, as odm's paper has it."""
    checkpoint: str | None = None
    """File to save to, and to go on from if it exists."""
    checkpoint_every: int = 100
    """Steps between saves."""
    log_every: int = 10
    """Steps between entries of the history of weights, and of the run log's losses."""
    run_log: str | None = None
    """Record the run there, for mixstream plot, watch and replay; other phases than the last get
    their name before the ending."""
    time: bool = False
    """Measure what the method costs in percent of a step."""
    step_size: float | None = None
    """doremi (1), dga (1), skillit (0.5), aioli (1): eta; grape (1): mu; rnb (1): lambda; pike
    (0.05): zeta1."""
    task_step_size: float = 1.0
    """grape: mu of the tasks' weights."""
    noise_step_size: float = 0.05
    """pike: zeta2."""
    update_every: int = 10
    """dga, doge, skillit, pike, grape, rnb: steps between measurements."""
    probe_rows: int = 8
    """Rows of each domain in a measurement, over all ranks."""
    rounds: int = 4
    """aioli: how often its law is learned anew."""
    sweeps: int = 1
    """aioli: probes of each mixture in a round."""
    probe_steps: int = 2
    """aioli: steps of a probe."""
    one_hot_factor: float = 1.0
    """aioli: share of the domain that a probe is for."""
    ema: float = 0.1
    """dga: share of the new weights in the average."""
    mu: float = 0.05
    """doge: Bregman coefficient, per unit of learning rate times alignment."""
    rule: str = "paper"
    """odm: paper, perplexity or exp3."""
    smoothing: float = 1e-3
    """doremi, doge: share of uniform weights; importance: pseudo-rows of each domain."""
    temperature: float = 2.0
    """temperature: 1 is natural."""
    max_epochs: float = 4.0
    """unimax, regmix, mixing_laws, olmix, utilimax, mixmin: most often that a row may come."""
    regressor: str = "ridge"
    """regmix: ridge or lightgbm."""
    kl_weight: float = 0.05
    """olmix: how much a move away from the natural weights must pay."""
    risk: float = 1.0
    """utilimax: factor on the concentration of the weights."""
    reference: str = "natural"
    """doremi: what reference and proxy are drawn by, natural or uniform."""
    forward: bool = False
    """dga, doge: measure all domains in one forward-mode pass."""


def what_counts(settings: Settings) -> dict[str, Any]:
    """The settings that a run's numbers depend on."""
    ignored = ("checkpoint", "checkpoint_every", "log_every", "run_log", "time")
    return {name: value for name, value in asdict(settings).items() if name not in ignored}
