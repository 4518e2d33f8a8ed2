"""Selectors: how policies and requests name nodes. ``all``, ``role:<role>``,
``label:<name>=<value>``, ``zone:<zone>``, ``node:<name>``. Pure."""

from collections.abc import Iterable

from interlock_sync_router.world import NodeFacts

__all__ = ["any_matches", "check_selector", "matches"]

_FORMS = "all, role:<role>, label:<name>=<value>, zone:<zone> or node:<name>"


def check_selector(text: str) -> str | None:
    """What is wrong with a selector, in a sentence that says what to write. None: nothing."""
    if text == "all":
        return None
    kind, colon, rest = text.partition(":")
    if not colon or kind not in ("role", "label", "zone", "node"):
        return f"{text!r} is no selector of nodes: write {_FORMS}"
    if kind == "label":
        name, equals, _ = rest.partition("=")
        if not name or not equals:
            return f"{text!r} names no label and value: write label:<name>=<value>"
        return None
    if not rest and kind != "zone":
        return f"{text!r} names no {kind}: write {kind}:<{'name' if kind == 'node' else kind}>"
    return None


def matches(selector: str, node: NodeFacts) -> bool:
    """Whether it names the node. One that is none names nobody."""
    if selector == "all":
        return True
    kind, _, rest = selector.partition(":")
    if kind == "role":
        return rest in node.roles
    if kind == "node":
        return rest == node.name
    if kind == "zone":
        return rest == node.zone and selector != "zone"
    if kind == "label":
        name, equals, value = rest.partition("=")
        return bool(equals) and node.labels.get(name) == value
    return False


def any_matches(selectors: Iterable[str], node: NodeFacts) -> bool:
    """Whether one of them names the node."""
    return any(matches(each, node) for each in selectors)
