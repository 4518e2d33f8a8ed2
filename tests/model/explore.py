"""Visits every state that a model can get into, breadth first, and tells the shortest way to the
first one that breaks a rule. It knows nothing of what is modelled.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = ["Broken", "Explored", "Model", "TooLarge", "explore"]

State = TypeVar("State", bound=Hashable)


class TooLarge(Exception):
    """The model has more states than were allowed for: nothing was proven."""


class Model(Protocol[State]):
    """What can be explored."""

    def initial(self) -> State:
        """Where everything begins."""

    def steps(self, state: State) -> Iterable[tuple[str, State, str | None]]:
        """What can happen next: in words, what comes of it, and which rule the step breaks."""

    def broken(self, state: State) -> str | None:
        """Which rule the state breaks."""


@dataclass(frozen=True)
class Broken:
    """A counterexample: the rule, and the shortest sequence of steps that breaks it."""

    rule: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        told = "\n".join(f"  {number}. {step}" for number, step in enumerate(self.trace, 1))
        return f"{self.rule}, after\n{told}"


@dataclass(frozen=True)
class Explored:
    """What was looked at."""

    states: int
    steps: int
    depth: int
    """Steps on the longest of the shortest ways to a state."""
    broken: Broken | None
    """None: every state was visited, and none breaks a rule."""
    told: frozenset[str]
    """The steps that were taken, in words: what cannot happen in a model proves nothing."""


def explore(model: Model[State], most: int) -> Explored:
    """Visit every state, or stop at the first that breaks a rule.

    Raises TooLarge when there are more than `most`.
    """
    start = model.initial()
    came: dict[State, tuple[State, str] | None] = {start: None}
    layer = [start]
    depth = taken = 0
    told: set[str] = set()

    def way(state: State) -> tuple[str, ...]:
        steps = []
        while (before := came[state]) is not None:
            state, step = before
            steps.append(step)
        return tuple(reversed(steps))

    def explored(rule: str | None = None, steps: tuple[str, ...] = ()) -> Explored:
        broken = None if rule is None else Broken(rule, steps)
        return Explored(len(came), taken, depth, broken, frozenset(told))

    if (rule := model.broken(start)) is not None:
        return explored(rule)
    while layer:
        following: list[State] = []
        for state in layer:
            for step, then, rule in model.steps(state):
                taken += 1
                told.add(step)
                if rule is not None:
                    return explored(rule, (*way(state), step))
                if then in came:
                    continue
                came[then] = (state, step)
                if (rule := model.broken(then)) is not None:
                    return explored(rule, way(then))
                following.append(then)
            if len(came) > most:
                raise TooLarge(f"more than {most} states, at depth {depth}")
        layer = following
        depth += bool(layer)
    return explored()
