"""A run that does not exist yet -> what it will read, hold and wait for, in simulated time."""

from mixstream.planning.contents import Contents, contents_of, described_contents
from mixstream.planning.report import DomainPlan, NodePlan, Plan
from mixstream.planning.run import plan_run
from mixstream.planning.settings import PlanSettings

__all__ = [
    "Contents",
    "DomainPlan",
    "NodePlan",
    "Plan",
    "PlanSettings",
    "contents_of",
    "described_contents",
    "plan_run",
]
