"""The planner: what must never be ordered, what is always reached, and that it comes to rest."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from interlock_schemas.artifacts import Artifact
from interlock_schemas.orders import Policy, Request
from interlock_sync_router.planner import explain, plan
from interlock_sync_router.selectors import check_selector, matches
from interlock_sync_router.simulate import made_up
from interlock_sync_router.world import Exclusion, Limits, NodeFacts, Open, Plan, World

NOW = 1_000_000.0


def sealed(minute: int) -> str:
    return f"2026-01-01T{minute // 60:02}:{minute % 60:02}:00Z"


def artifact(n: int, dataset: str = "games", **given: Any) -> Artifact:
    return Artifact(
        **{
            "id": f"{n:064x}",
            "dataset": dataset,
            "name": f"a{n}",
            "bytes": 10,
            "origin": "n0",
            "sealed_at": sealed(n),
            **given,
        }
    )


def node(name: str, **given: Any) -> NodeFacts:
    return NodeFacts(
        **{"name": name, "zone": "a", "total_bytes": 1_000, "free_bytes": 900, **given}
    )


def world(nodes: list[NodeFacts], artifacts: dict[Artifact, set[str]], **given: Any) -> World:
    return World(
        now=NOW,
        nodes={each.name: each for each in nodes},
        artifacts={each.id: each for each in artifacts},
        copies={each.id: frozenset(held) for each, held in artifacts.items()},
        **given,
    )


def policies(*each: Policy) -> dict[str, Policy]:
    return {policy.dataset: policy for policy in each}


def ordered(before: World, found: Plan) -> World:
    """The orders stand, and nothing has been done yet."""
    orders = {key: each for key, each in before.orders.items() if key not in found.withdraw}
    for move in found.moves:
        orders[move.node, move.artifact] = Open(
            node=move.node,
            artifact=move.artifact,
            action=move.action,
            priority=move.priority,
            sources=move.sources,
        )
    return msgspec.structs.replace(before, orders=orders)


def done(before: World) -> World:
    """Every order was carried out."""
    copies, nodes = dict(before.copies), dict(before.nodes)
    for (name, id), order in before.orders.items():
        size, facts = before.artifacts[id].bytes, nodes[name]
        held = copies.get(id, frozenset())
        sign = 0
        if order.action == "fetch" and name not in held:
            copies[id], sign = held | {name}, -1
        elif order.action == "drop" and name in held:
            copies[id], sign = held - {name}, 1
        if facts.free_bytes is not None:
            nodes[name] = msgspec.structs.replace(
                facts, free_bytes=max(facts.free_bytes + sign * size, 0)
            )
    return msgspec.structs.replace(before, copies=copies, nodes=nodes, orders={})


def settle(start: World, limits: Limits) -> tuple[World, list[Plan]]:
    """Plan and carry out until there is nothing to do."""
    plans = []
    for _ in range(60):
        found = plan(start, limits)
        plans.append(found)
        if not found.moves and not found.withdraw and not start.orders:
            return start, plans
        start = done(ordered(start, found))
    raise AssertionError("it never comes to rest")


names = [f"n{i}" for i in range(6)]
selectors = st.sampled_from(
    ["all", "role:trainer", "label:gpu=a100", "zone:a", "zone:b", "node:n1", "node:nobody"]
)


@st.composite
def facts(draw: st.DrawFn, name: str) -> NodeFacts:
    rarely = st.sampled_from([False] * 7 + [True])
    total = draw(st.sampled_from([None, 100, 1_000, 10_000]))
    return NodeFacts(
        name=name,
        zone=draw(st.sampled_from("abc")),
        roles=frozenset({"trainer"} if draw(st.booleans()) else ()),
        labels={"gpu": "a100"} if draw(st.booleans()) else {},
        ephemeral=draw(st.booleans()),
        standing=draw(
            st.sampled_from(["healthy"] * 5 + ["degraded", "suspect", "lost", "unknown"])
        ),
        cordoned=draw(rarely),
        draining=draw(rarely),
        retired=draw(rarely),
        leaving_at=draw(st.sampled_from([None] * 6 + [NOW + 60, NOW - 1])),
        paused=draw(rarely),
        receives=not draw(rarely),
        serves=not draw(rarely),
        datasets=draw(st.sampled_from([None, None, None, frozenset({"games"})])),
        reachable=not draw(rarely),
        total_bytes=total,
        free_bytes=None if total is None else draw(st.none() | st.integers(0, total)),
        slots=draw(st.integers(1, 4)),
    )


@st.composite
def policy(draw: st.DrawFn, dataset: str) -> Policy:
    return Policy(
        dataset=dataset,
        copies=draw(st.integers(1, 3)),
        targets=tuple(draw(st.lists(selectors, max_size=2))),
        avoid=tuple(draw(st.lists(selectors.filter(lambda s: s != "all"), max_size=1))),
        priority=draw(st.sampled_from(["critical", "normal", "background"])),
        keep_last=draw(st.sampled_from([None, None, 1, 2])),
        largest_bytes=draw(st.sampled_from([None, None, 50])),
        keep_at_origin=draw(st.booleans()),
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    nodes = [draw(facts(name)) for name in names[: draw(st.integers(1, 6))]]
    there = st.sampled_from([each.name for each in nodes])
    held: dict[Artifact, set[str]] = {}
    for n in range(draw(st.integers(1, 6))):
        about = artifact(
            n,
            draw(st.sampled_from(["games", "models"])),
            bytes=draw(st.integers(0, 200)),
            origin=draw(there),
            value=draw(st.sampled_from([0.0, 1.0, 7.0])),
        )
        held[about] = set(draw(st.lists(there, max_size=4)))
    requests = []
    for n in range(draw(st.integers(0, 2))):
        requests.append(
            Request(
                id=f"r{n}",
                dataset=draw(st.sampled_from(["games", "models"])),
                artifacts=tuple(each.id for each in held if draw(st.booleans())),
                targets=(draw(selectors),),
                priority=draw(st.sampled_from(["high", "low"])),
            )
        )
    orders = {}
    for name, about, action in draw(
        st.lists(
            st.tuples(there, st.sampled_from(list(held)), st.sampled_from(["fetch", "drop"])),
            max_size=4,
        )
    ):
        orders[name, about.id] = Open(
            node=name,
            artifact=about.id,
            action=action,  # type: ignore[arg-type]
            sources=tuple(sorted(held[about] - {name}))[:1],
        )
    exclusions = [
        Exclusion(
            node=draw(there),
            artifact=draw(st.sampled_from([None, *(each.id for each in held)])),
            source=draw(st.none() | there),
            until=draw(st.sampled_from([NOW - 1, NOW + 60])),
            why="it failed",
        )
        for _ in range(draw(st.integers(0, 2)))
    ]
    return world(
        nodes,
        held,
        policies=policies(draw(policy("games")), draw(policy("models"))),
        requests=tuple(requests),
        orders=orders,
        exclusions=tuple(exclusions),
        paused_datasets=draw(st.sampled_from([frozenset(), frozenset(), frozenset({"models"})])),
        paused=draw(st.sampled_from([False] * 9 + [True])),
    )


@st.composite
def crowded(draw: st.DrawFn) -> World:
    """Many copies, on disks that are nearly full or beyond."""
    nodes = [
        node(
            name,
            zone=draw(st.sampled_from("ab")),
            roles=frozenset({"trainer"} if draw(st.booleans()) else ()),
            ephemeral=draw(st.sampled_from([False, False, False, True])),
            standing=draw(st.sampled_from(["healthy"] * 4 + ["suspect", "lost"])),
            free_bytes=draw(st.integers(0, 250)),
        )
        for name in names[: draw(st.integers(2, 6))]
    ]
    there = st.sampled_from([each.name for each in nodes])
    held: dict[Artifact, set[str]] = {
        artifact(n, bytes=draw(st.integers(1, 60)), origin=draw(there)): draw(
            st.sets(there, min_size=1)
        )
        for n in range(draw(st.integers(1, 6)))
    }
    orders = {
        (name, about.id): Open(node=name, artifact=about.id, action="drop")
        for about in held
        for name in sorted(held[about])[: draw(st.sampled_from([0, 0, 1]))]
    }
    rule = Policy(
        dataset="games",
        copies=draw(st.integers(1, 3)),
        targets=draw(st.sampled_from([(), ("role:trainer",)])),
        keep_last=draw(st.sampled_from([None, None, 2])),
        keep_at_origin=draw(st.booleans()),
    )
    return world(nodes, held, policies=policies(rule), orders=orders)


limits = st.builds(
    Limits, per_node=st.integers(1, 8), fan_out=st.integers(1, 3), moves=st.sampled_from([1, 3, 99])
)


def counts(facts: NodeFacts) -> bool:
    return not (
        facts.ephemeral
        or facts.leaving_at is not None
        or facts.draining
        or facts.retired
        or facts.standing == "lost"
    )


def chosen(of: tuple[str, ...], facts: NodeFacts) -> bool:
    return any(matches(each, facts) for each in of)


@settings(max_examples=150, deadline=None)
@given(worlds(), limits)
def test_nothing_goes_to_a_node_that_must_not_be_given_any(given: World, bounds: Limits) -> None:
    found = plan(given, bounds)
    coming = Counter[str]()
    standing = [each for key, each in given.orders.items() if key not in found.withdraw]
    for order in standing:
        if order.action == "fetch":
            coming[order.node] += given.artifacts[order.artifact].bytes
    fetches = [each for each in found.moves if each.action == "fetch"]
    for move in fetches:
        about, to = given.artifacts[move.artifact], given.nodes[move.node]
        rule = given.policies[about.dataset]
        assert not given.paused
        assert about.dataset not in given.paused_datasets
        assert to.standing in ("healthy", "degraded")
        assert not any((to.cordoned, to.draining, to.retired, to.paused))
        assert to.leaving_at is None
        assert to.receives
        assert to.reachable
        assert to.datasets is None or about.dataset in to.datasets
        assert not chosen(rule.avoid, to)
        assert rule.largest_bytes is None or about.bytes <= rule.largest_bytes
        assert move.node not in given.copies[about.id]
        assert move.reasons
        for each in given.exclusions:
            if each.until > NOW and each.node == move.node:
                assert each.source is not None or each.artifact not in (None, about.id)
                if each.artifact in (None, about.id):
                    assert each.source not in move.sources
        for source in move.sources:
            assert source in given.copies[about.id]
            serving = given.nodes[source]
            assert serving.standing != "lost"
            assert serving.reachable
        coming[move.node] += about.bytes
    for name in {each.node for each in fetches}:
        to = given.nodes[name]
        assert to.total_bytes is not None
        assert to.free_bytes is not None
        used = to.total_bytes - to.free_bytes + coming[name]
        assert used <= to.total_bytes * to.high_percent / 100
    per_node = Counter([*(each.node for each in standing), *(each.node for each in found.moves)])
    for name in {each.node for each in found.moves}:
        assert per_node[name] <= bounds.per_node
    assert len(found.moves) <= bounds.moves
    assert all(each.node not in {m.node for m in fetches} for each in found.left_out)


@settings(max_examples=150, deadline=None)
@given(crowded() | worlds(), limits)
def test_a_plan_whose_orders_stand_leads_to_an_empty_plan(given: World, bounds: Limits) -> None:
    bounds = msgspec.structs.replace(bounds, moves=10_000)
    given = ordered(given, plan(given, bounds))
    # A drop that was withdrawn may have been carried out just then, so that another one of the
    # same artifact is only given after that.
    given = ordered(given, plan(given, bounds))
    after = plan(given, bounds)
    assert after.moves == ()
    assert after.withdraw == ()


@settings(max_examples=150, deadline=None)
@given(crowded() | worlds(), limits)
def test_no_drop_leaves_less_than_the_policy_asks_for(given: World, bounds: Limits) -> None:
    found = plan(given, bounds)
    drops = Counter(each.artifact for each in found.moves if each.action == "drop")
    for move in (each for each in found.moves if each.action == "drop"):
        about = given.artifacts[move.artifact]
        rule = given.policies[about.dataset]
        assert move.node in given.copies[about.id]
        if move.replicas == 0:
            newer = [
                each
                for each in given.artifacts.values()
                if (each.dataset, each.config) == (about.dataset, about.config)
                and each.sealed_at > about.sealed_at
            ]
            assert rule.keep_last is not None
            assert len(newer) >= rule.keep_last
            for request in given.requests:
                assert about.id not in request.artifacts
                assert request.artifacts or request.dataset != about.dataset
            continue
        assert drops[about.id] == 1
        others = given.copies[about.id] - {move.node}
        safe = [
            name
            for name in others
            if counts(given.nodes[name]) and given.nodes[name].standing in ("healthy", "degraded")
        ]
        assert move.replicas == rule.copies <= len(safe)
        assert set(move.others) <= set(safe)
        assert len(move.others) >= rule.copies
        assert not chosen(rule.targets, given.nodes[move.node]) or chosen(
            rule.avoid, given.nodes[move.node]
        )


@settings(max_examples=120, deadline=None)
@given(crowded() | worlds(), limits)
def test_it_comes_to_rest_with_every_copy_that_can_be_had(given: World, bounds: Limits) -> None:
    assume(not given.paused)
    end, plans = settle(given, bounds)
    last = plans[-1]
    assert plan(end, bounds) == last
    if not given.exclusions:
        assert last.waiting == 0
    told = {each.artifact for each in last.unmet}
    for about in end.artifacts.values():
        if about.dataset in given.paused_datasets or about.id in told:
            continue
        rule = given.policies[about.dataset]
        group = [e for e in end.artifacts.values() if e.dataset == about.dataset]
        if rule.keep_last is not None and len(group) > rule.keep_last:
            continue
        safe = [n for n in end.copies[about.id] if counts(end.nodes[n])]
        if not given.exclusions:
            assert len(safe) >= rule.copies


@settings(max_examples=100, deadline=None)
@given(worlds(), limits, st.randoms(use_true_random=False))
def test_the_same_world_in_another_order_has_the_same_plan(
    given: World, bounds: Limits, random: Any
) -> None:
    def shuffled(of: Any) -> dict[Any, Any]:
        items = list(of.items())
        random.shuffle(items)
        return dict(items)

    other = msgspec.structs.replace(
        given,
        nodes=shuffled(given.nodes),
        artifacts=shuffled(given.artifacts),
        copies=shuffled(given.copies),
        orders=shuffled(given.orders),
    )
    one, two = plan(given, bounds), plan(other, bounds)
    assert one.moves == two.moves
    assert one.withdraw == two.withdraw
    assert one.waiting == two.waiting


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_explaining_says_something_of_every_node(given: World) -> None:
    id = next(iter(given.artifacts))
    moves, left_out = explain(given, id)
    fetching = {each.node for each in moves}
    assert {each.node for each in left_out} | fetching == set(given.nodes)
    assert all(each.reasons for each in left_out)


def test_a_copy_goes_to_another_zone_and_says_why() -> None:
    given = world(
        [node("n0"), node("n1", free_bytes=1_000), node("n2", zone="b")], {artifact(1): {"n0"}}
    )
    (move,) = plan(given).moves
    assert (move.node, move.sources) == ("n2", ("n0",))
    assert move.reasons == ("policy games: 1 of 2 safe copies; zone b has none",)


def test_what_only_a_leaving_node_has_is_critical_and_the_more_valuable_goes_first() -> None:
    given = world(
        [node("n0", leaving_at=NOW + 30), node("n1"), node("n2", zone="b"), node("n3", zone="c")],
        {
            artifact(1, value=1.0): {"n0"},
            artifact(2, value=9.0): {"n0"},
            artifact(3): {"n1"},
        },
    )
    found = plan(given).moves
    assert [(each.priority, each.artifact[-1]) for each in found[:2]] == [
        ("critical", "2"),
        ("critical", "1"),
    ]
    assert {each.priority for each in found[2:]} == {"normal"}


def test_what_only_a_spot_node_has_is_raised_one_level() -> None:
    given = world(
        [node("n0", ephemeral=True), node("n1"), node("n2", zone="b")], {artifact(1): {"n0"}}
    )
    assert [each.priority for each in plan(given).moves] == ["high", "normal"]


@pytest.mark.parametrize("count", [8, 40])
def test_a_fan_out_costs_the_origin_two_copies(count: int) -> None:
    given = world(
        [node("n0"), *(node(f"t{i:02}", zone="ab"[i % 2]) for i in range(count))],
        {artifact(1): {"n0"}},
        policies=policies(Policy(dataset="games", targets=("all",))),
    )
    end, plans = settle(given, Limits())
    served = Counter(each.sources[0] for one in plans for each in one.moves)
    assert len(end.copies[artifact(1).id]) == count + 1
    assert served["n0"] <= 2
    assert sum(served.values()) == count
    assert plans[0].waiting == count - 2


def test_a_node_that_gave_way_midway_does_not_open_the_origin_to_all() -> None:
    given = world(
        [node("n0"), *(node(f"t{i}") for i in range(8))],
        {artifact(1): {"n0", "t0"}},
        policies=policies(Policy(dataset="games", targets=("all",))),
    )
    assert {each.sources[0] for each in plan(given).moves} == {"t0"}


def test_where_there_is_not_room_for_all_datasets_take_turns() -> None:
    held = {artifact(i): {"n0"} for i in range(90)}
    held |= {artifact(100 + i, "models"): {"n0"} for i in range(10)}
    given = world(
        [node("n0", total_bytes=10**6, free_bytes=9 * 10**5)]
        + [node(f"n{i}", total_bytes=10**6, free_bytes=9 * 10**5) for i in range(1, 9)],
        held,
    )
    found = plan(given, Limits(moves=12)).moves
    assert Counter(given.artifacts[e.artifact].dataset for e in found) == {"games": 6, "models": 6}


def test_a_full_disk_is_relieved_of_what_is_safe_elsewhere_down_to_the_lower_mark() -> None:
    held = {artifact(i, bytes=50): {"n0", "n1", "n2"} for i in range(10)}
    held[artifact(99, bytes=400)] = {"n0", "n1"}
    nodes = [node("n0", free_bytes=50), node("n1", zone="b"), node("n2", zone="c")]
    given = world(nodes, held)
    found = [each for each in plan(given).moves if each.action == "drop"]
    # The large one is not met without this copy; of the others, the oldest go.
    assert {each.node for each in found} == {"n0"}
    assert [given.artifacts[each.artifact].name for each in found] == ["a0", "a1", "a2"]
    assert {each.replicas for each in found} == {2}
    assert plan(ordered(given, plan(given))).moves == ()


def test_what_is_superseded_goes_everywhere_except_where_a_request_names_it() -> None:
    held = {artifact(i): {"n0", "n1"} for i in range(4)}
    given = world(
        [node("n0"), node("n1", zone="b")],
        held,
        policies=policies(Policy(dataset="games", keep_last=2)),
        requests=(Request(id="r", artifacts=(artifact(0).id,)),),
    )
    found = plan(given).moves
    assert {(each.node, each.artifact[-1], each.action) for each in found} == {
        ("n0", "1", "drop"),
        ("n1", "1", "drop"),
    }


def test_an_origin_that_need_not_keep_it_lets_go_once_the_policy_is_met_without() -> None:
    rules = policies(Policy(dataset="games", keep_at_origin=False))
    nodes = [node("n0", ephemeral=True), node("n1"), node("n2", zone="b")]
    short = world(nodes, {artifact(1): {"n0", "n1"}}, policies=rules)
    assert {each.action for each in plan(short).moves} == {"fetch"}
    met = world(nodes, {artifact(1): {"n0", "n1", "n2"}}, policies=rules)
    (move,) = plan(met).moves
    assert (move.node, move.action, move.replicas, move.others) == ("n0", "drop", 2, ("n1", "n2"))


def test_when_the_only_source_fails_one_node_another_node_is_tried() -> None:
    given = world(
        [node("n0"), node("n1"), node("n2")],
        {artifact(1): {"n0"}},
        exclusions=(Exclusion(node="n1", source="n0", until=NOW + 9, why="refused"),),
    )
    assert [each.node for each in plan(given).moves] == ["n2"]


def test_orders_that_are_not_wanted_any_more_are_withdrawn() -> None:
    given = world([node("n0"), node("n1"), node("n2", zone="b")], {artifact(1): {"n0"}})
    wanted = plan(given)
    stands = ordered(given, wanted)
    assert plan(stands).withdraw == ()
    key = (wanted.moves[0].node, artifact(1).id)
    changes: tuple[dict[str, Any], ...] = (
        {"paused": True},
        {"paused_datasets": frozenset({"games"})},
        {"nodes": {**given.nodes, "n2": node("n2", zone="b", receives=False)}},
        {"copies": {artifact(1).id: frozenset({"n0", "n2"})}},
        {"artifacts": {}},
    )
    for change in changes:
        assert plan(msgspec.structs.replace(stands, **change)).withdraw == (key,)


def test_what_is_too_large_stays_and_is_told_of() -> None:
    given = world(
        [node("n0"), node("n1")],
        {artifact(1): {"n0"}},
        policies=policies(Policy(dataset="games", largest_bytes=9)),
    )
    found = plan(given)
    assert found.moves == ()
    assert [each.code for each in found.unmet] == ["too_large"]
    assert found.datasets[0].unreachable == 1


def test_one_changed_artifact_is_planned_alone_as_it_is_with_the_others() -> None:
    given = made_up.world(60, 400, seed=3, short=0.1)
    whole = plan(given)
    for move in whole.moves[:20]:
        alone = plan(given, only=[move.artifact])
        assert move.artifact in {each.artifact for each in alone.moves}
        assert {each.artifact for each in alone.moves} == {move.artifact}


@pytest.mark.parametrize(
    "text", ["", "every", "role:", "role", "label:a", "label:=b", "node:", "zone"]
)
def test_a_bad_selector_is_told_what_to_write(text: str) -> None:
    said = check_selector(text)
    assert said is not None
    assert "write" in said
    assert not matches(text, node("n0", zone=""))


@pytest.mark.parametrize("text", ["all", "role:x", "label:a=b", "label:a=", "zone:z", "node:n"])
def test_a_good_selector_is_good(text: str) -> None:
    assert check_selector(text) is None
