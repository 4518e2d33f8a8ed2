"""The ledger of the demo: it balances when all went well, and only then."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from interlock.demo.ledger import Found, Ledger, balance
from interlock.demo.script import Item, script
from interlock_schemas.letters import Code, LetterRecord, Status, Step

ITEMS = list(script(1_500, 7))


def record(message_id: str, code: Code, status: Status, *, replayed: bool) -> LetterRecord:
    happened = [Step(at="t", did="died", hop=0)]
    if replayed:
        happened.append(Step(at="t", did="replayed", hop=1))
    return LetterRecord(
        id=f"letter-{message_id}",
        status=status,
        code=code,
        reason="r",
        service="s",
        consumer="c",
        message_id=message_id,
        subject="legacy.events",
        stream="LEGACY",
        stream_seq=1,
        letter_seq=1,
        attempts=1,
        first_at="t",
        last_at="t",
        body_bytes=0,
        hop=int(replayed),
        history=tuple(happened),
    )


class World:
    """What stands on the broker when all went as the script says; to be tampered with."""

    def __init__(self) -> None:
        self.acknowledged = {item.id for item in ITEMS}
        self.events: dict[str, list[str]] = {}
        self.effects: dict[str, int] = {}
        self.letters: dict[str, LetterRecord] = {}
        for item in ITEMS:
            handled = item.type is not None and item.failing != "always"
            if item.type is not None:
                self.events[item.event_id] = [item.type]
            if handled:
                self.effects[item.event_id] = 1
            if item.code is not None:
                id = item.event_id if item.code is Code.HANDLER_FAILED else item.id
                status: Status = "resolved" if handled else "open"
                self.letters[id] = record(id, item.code, status, replayed=handled)

    def ledger(self) -> Ledger:
        found = Found(
            acknowledged=frozenset(self.acknowledged),
            events=self.events,
            effects=self.effects,
            letters=self.letters,
        )
        return balance(ITEMS, found, seconds=1.25, kills=3)

    def change_letter(self, id: str, **changes: Any) -> None:
        self.letters[id] = msgspec.structs.replace(self.letters[id], **changes)


def pick(**wanted: Any) -> Item:
    """The first message of the script with these properties."""
    return next(
        item
        for item in ITEMS
        if all(getattr(item, name) == value for name, value in wanted.items())
    )


LEGACY = pick(kind="legacy", failing="never")
CANONICAL = pick(kind="canonical", failing="never")
REPAIRED = pick(kind="legacy", failing="until_fixed")
HOPELESS = pick(kind="canonical", failing="always")
BROKEN = pick(kind="broken")
MAPPED = pick(kind="unknown", type="model.promoted")
STRANGE = pick(kind="unknown", type=None)


def test_when_all_went_as_the_script_says_it_balances() -> None:
    ledger = World().ledger()
    assert ledger.balanced
    assert ledger.unbalanced == ()
    assert ledger.published == ledger.acknowledged == len(ITEMS)
    assert ledger.delivered + ledger.still_dead == len(ITEMS)
    assert ledger.dead_lettered == ledger.resolved + ledger.still_dead
    assert ledger.replayed == ledger.resolved > 0
    assert 0 < ledger.normalized < len(ITEMS)
    assert (ledger.seconds, ledger.kills) == (1.2, 3)
    assert ledger.summary()["balanced"] is True


def test_what_was_never_acknowledged_may_be_there_or_not() -> None:
    world = World()
    world.acknowledged -= {LEGACY.id, CANONICAL.id}
    del world.events[LEGACY.event_id], world.effects[LEGACY.event_id]
    ledger = world.ledger()
    assert ledger.balanced
    assert ledger.acknowledged == ledger.published - 2


def test_a_handler_may_be_fixed_before_it_failed_for_good() -> None:
    world = World()
    del world.letters[REPAIRED.event_id]
    assert world.ledger().balanced


def test_nothing_acknowledged_is_no_balance() -> None:
    world = World()
    world.acknowledged.clear()
    assert not world.ledger().balanced


def without_effect(world: World, item: Item) -> None:
    del world.effects[item.event_id]


def without_any_trace(world: World, item: Item) -> None:
    for found in (world.events, world.effects):
        found.pop(item.event_id, None)
    world.letters.pop(item.event_id, None)
    world.letters.pop(item.id, None)


def with_two_effects(world: World, item: Item) -> None:
    world.effects[item.event_id] = 2


def stored_twice(world: World, item: Item) -> None:
    world.events[item.event_id] *= 2


def with_an_open_letter(world: World, item: Item) -> None:
    id = item.event_id
    world.letters[id] = record(id, Code.HANDLER_FAILED, "open", replayed=False)


def with_a_resolved_letter(world: World, item: Item) -> None:
    id = item.event_id
    world.letters[id] = record(id, Code.HANDLER_FAILED, "resolved", replayed=True)


def with_another_type(world: World, item: Item) -> None:
    world.events[item.event_id] = ["system.started"]


def without_its_event(world: World, item: Item) -> None:
    del world.events[item.event_id]


def letter_of(world: World, item: Item) -> str:
    return item.event_id if item.event_id in world.letters else item.id


def with_another_code(world: World, item: Item) -> None:
    world.change_letter(letter_of(world, item), code=Code.POISON)


def letter_open_again(world: World, item: Item) -> None:
    world.change_letter(letter_of(world, item), status="open")


def letter_closed_without_an_effect(world: World, item: Item) -> None:
    world.change_letter(letter_of(world, item), status="resolved")
    world.effects.pop(item.event_id, None)


def handled_against_all_odds(world: World, item: Item) -> None:
    letter_closed_without_an_effect(world, item)
    world.effects[item.event_id] = 1
    world.events.setdefault(item.event_id, ["system.started"])


@pytest.mark.parametrize(
    ("tamper", "item", "column"),
    [
        (without_any_trace, LEGACY, "lost"),
        (without_any_trace, CANONICAL, "lost"),
        (without_any_trace, REPAIRED, "lost"),
        (without_any_trace, BROKEN, "lost"),
        (without_effect, LEGACY, "lost"),
        (without_effect, REPAIRED, "lost"),
        (letter_closed_without_an_effect, HOPELESS, "lost"),
        (letter_closed_without_an_effect, BROKEN, "lost"),
        (letter_closed_without_an_effect, MAPPED, "lost"),
        (with_two_effects, LEGACY, "duplicates"),
        (with_two_effects, MAPPED, "duplicates"),
        (stored_twice, LEGACY, "duplicates"),
        (stored_twice, CANONICAL, "duplicates"),
        (with_an_open_letter, LEGACY, "two_ends"),
        (with_an_open_letter, MAPPED, "two_ends"),
        (letter_open_again, REPAIRED, "two_ends"),
        (letter_open_again, MAPPED, "two_ends"),
        (with_another_type, LEGACY, "mistaken"),
        (with_another_type, CANONICAL, "mistaken"),
        (with_another_type, BROKEN, "mistaken"),
        (with_another_type, STRANGE, "mistaken"),
        (without_its_event, CANONICAL, "mistaken"),
        (without_its_event, LEGACY, "mistaken"),
        (with_another_code, BROKEN, "mistaken"),
        (with_another_code, STRANGE, "mistaken"),
        (with_another_code, REPAIRED, "mistaken"),
        (with_a_resolved_letter, LEGACY, "mistaken"),
        (with_a_resolved_letter, MAPPED, "mistaken"),
        (handled_against_all_odds, HOPELESS, "mistaken"),
        (handled_against_all_odds, STRANGE, "mistaken"),
    ],
    ids=lambda part: getattr(part, "__name__", None) or getattr(part, "kind", None),
)
def test_one_message_that_went_wrong_is_found(
    tamper: Callable[[World, Item], None], item: Item, column: str
) -> None:
    world = World()
    tamper(world, item)
    ledger = world.ledger()
    assert not ledger.balanced
    assert getattr(ledger, column) == 1
    assert ledger.unbalanced == (item.id,)
    assert ledger.summary()["balanced"] is False


def test_an_effect_of_no_message_is_found() -> None:
    world = World()
    world.effects["legacy.nobody-1"] = 1
    ledger = world.ledger()
    assert not ledger.balanced
    assert ledger.mistaken == 1
    assert ledger.unbalanced == ("legacy.nobody-1",)


def test_a_discarded_letter_is_an_end() -> None:
    world = World()
    world.change_letter(BROKEN.id, status="discarded")
    assert world.ledger().balanced


def test_many_wrong_messages_are_counted_and_some_of_them_named() -> None:
    world = World()
    world.effects.clear()
    ledger = world.ledger()
    assert ledger.lost == World().ledger().delivered
    assert len(ledger.unbalanced) == 20
