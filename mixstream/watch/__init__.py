"""A running log -> a live page in the browser, from which a person can steer the run."""

from mixstream.watch.server import Watch

__all__ = ["Watch"]
