"""The search for better hyperparameters and architectures: CMA-ES, population training, NAS.

Only the searches and their results. One training run inside a search is `training`.
"""

from interlock_schemas.event import open_type

__all__ = ["TYPES"]


TYPES = (
    open_type(
        "optimization.hyperparameter_updated",
        "A hyperparameter of a configuration got a new value; emitted by the optimizer that found "
        "it.",
    ),
    open_type(
        "optimization.adaptive_parameters_changed",
        "Search budget, temperature or opponents of a configuration were tuned to its rating; "
        "emitted by the adaptive controller.",
    ),
    open_type(
        "optimization.cmaes_triggered",
        "Conditions for a CMA-ES search are met and one is being set up; emitted by the "
        "optimization scheduler.",
    ),
    open_type(
        "optimization.cmaes_completed",
        "A CMA-ES search ended with its best parameters; emitted by the CMA-ES worker.",
    ),
    open_type(
        "optimization.pbt_started",
        "A population of training runs began to evolve; emitted by the population trainer.",
    ),
    open_type(
        "optimization.pbt_generation_completed",
        "One generation of a population was trained and ranked; emitted by the population trainer.",
    ),
    open_type(
        "optimization.pbt_completed",
        "A population's last generation ended and the search is over; emitted by the population "
        "trainer.",
    ),
    open_type(
        "optimization.nas_triggered",
        "Conditions for an architecture search are met and one is being set up; emitted by the "
        "optimization scheduler.",
    ),
    open_type(
        "optimization.nas_started",
        "An architecture search began; emitted by the architecture searcher.",
    ),
    open_type(
        "optimization.nas_generation_completed",
        "One generation of candidate architectures was trained and ranked; emitted by the "
        "architecture searcher.",
    ),
    open_type(
        "optimization.nas_best_architecture_found",
        "An architecture search met a candidate better than all before; emitted by the "
        "architecture searcher.",
    ),
    open_type(
        "optimization.nas_completed",
        "An architecture search ended with its best architecture; emitted by the architecture "
        "searcher.",
    ),
)
