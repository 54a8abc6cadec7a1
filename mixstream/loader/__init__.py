"""The hall: where the way of the data and the way of the control meet, in tensors."""

from mixstream.loader.batch_sampler import BatchSamplerState, MixBatchSampler
from mixstream.loader.consumption import Consumption
from mixstream.loader.dataset import Batch, RowDataset
from mixstream.loader.loader import Loader
from mixstream.loader.state import LoaderState
from mixstream.loader.stats import LoaderStats

__all__ = [
    "Batch",
    "BatchSamplerState",
    "Consumption",
    "Loader",
    "LoaderState",
    "LoaderStats",
    "MixBatchSampler",
    "RowDataset",
]
