"""The plan for a made-up fleet, as operators see plans: ``interlock sync plan --nodes``."""

from interlock_schemas.orders import AskPlan, PlanView
from interlock_sync_router.simulate.made_up import world
from interlock_sync_router.views import plan_view
from interlock_sync_router.world import Limits

__all__ = ["made_up"]


def made_up(nodes: int, artifacts: int, seed: int, asked: AskPlan) -> PlanView:
    """What would be done in a fleet of so many nodes, made up from a seed; as much as is asked."""
    return plan_view(world(nodes, artifacts, seed), asked, Limits())
