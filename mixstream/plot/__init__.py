"""Run logs -> pictures of the mixture: what was asked, what was drawn, and what came of it."""

from mixstream.plot.charts import Charts, Mark, Signal, charts_of
from mixstream.plot.write import plot

__all__ = ["Charts", "Mark", "Signal", "charts_of", "plot"]
