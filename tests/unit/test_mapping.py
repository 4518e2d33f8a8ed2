"""From a legacy message to a canonical event: what counts as what, and that nothing is lost."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from interlock_event_normalizer.mapping import Canonical, Refusal, normalize
from interlock_schemas import catalogue, legacy, mappings
from interlock_schemas.legacy import Match
from interlock_schemas.legacy_names import ALIASES
from interlock_schemas.letters import Code

NAME_KEYS = ("event_type", "type", "event", "name")
PAYLOAD_KEYS = ("payload", "data")
NOWHERE = "legacy.events"

#: Names whose types take any payload, and names whose types declare what they take.
KNOWN = [
    "breaker.reset",
    "lock.deadlock_detected",
    "TRAINING_COMPLETE",
    "gpu_selfplay_complete",
    "EVALUATION_COMPLETED",
    "P2P_CLUSTER_HEALTHY",
    "StageEvent.TRAINING_COMPLETE",
]
FIELDS = [
    *NAME_KEYS,
    *PAYLOAD_KEYS,
    *("config", "config_key", "node", "node_id", "host", "host_id", "duration_seconds"),
    *("envelope_config", "envelope_x", "x", "board_type", "num_players", "timestamp", "source"),
    *("games", "games_played", "reason", "error", "error_message", "selfplay_type"),
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(["", "hex8_2p", "gpu-1", 0, 1, True, 1.0, *KNOWN])
)
keys = st.sampled_from(FIELDS) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(keys, values, max_size=6)
plain_objects = st.dictionaries(keys, scalars, max_size=6)
subjects = st.sampled_from([NOWHERE, "legacy.TRAINING_COMPLETE", "legacy.breaker%2Ereset"])


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """A body as an old worker might send it: a name, a payload, and something beside it."""
    content = dict(draw(objects | plain_objects))
    if draw(st.booleans()):
        content[draw(st.sampled_from(NAME_KEYS))] = draw(st.sampled_from(KNOWN))
    if draw(st.booleans()):
        payload = draw(objects | plain_objects)
        as_text = draw(st.booleans())
        content[draw(st.sampled_from(PAYLOAD_KEYS))] = json.dumps(payload) if as_text else payload
    return content


def resolve(name: str) -> Match | None:
    return mappings.resolve(name, {})


def outcome(
    content: object, subject: str = NOWHERE, headers: Mapping[str, str] | None = None
) -> Canonical | Refusal:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return normalize(subject, headers or {}, body, resolve)


def canonical(
    content: object, subject: str = NOWHERE, headers: Mapping[str, str] | None = None
) -> Canonical:
    result = outcome(content, subject, headers)
    assert isinstance(result, Canonical), result
    return result


def refusal(content: object, subject: str = NOWHERE) -> Refusal:
    result = outcome(content, subject)
    assert isinstance(result, Refusal), result
    return result


def payload_of(name: str, payload: dict[str, Any]) -> dict[str, Any]:
    """What becomes of a bare payload whose subject names the event."""
    return canonical(payload, f"legacy.{name}").payload


def leaves(value: object) -> Iterator[bytes]:
    """The values in which the branches of a JSON value end, null apart, as JSON."""
    if isinstance(value, dict) and value:
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from leaves(inner)
    elif value is not None:
        yield msgspec.json.encode(value)


def check_sound(result: Canonical | Refusal) -> None:
    """What holds of every outcome."""
    assert result.code in Code if isinstance(result, Refusal) else True
    if isinstance(result, Refusal):
        assert result.reason
        assert len(result.name) <= 200
        return
    entry = catalogue.by_name()[result.type]
    assert msgspec.json.decode(result.body) == result.payload
    entry.convert(msgspec.json.decode(result.body))
    assert len(result.name) <= 200
    assert 0 < len(result.origin) <= 200


def nested(depth: int, inside: str = "null") -> str:
    return "[" * depth + inside + "]" * depth


# Whatever comes, there is an answer.


@given(st.text(), st.dictionaries(st.text(), st.text()), st.binary())
def test_any_bytes_on_any_subject_have_an_outcome(
    subject: str, headers: dict[str, str], body: bytes
) -> None:
    check_sound(normalize(subject, headers, body, resolve))


@given(values, subjects, st.booleans())
def test_any_json_has_an_outcome(content: object, subject: str, ascii_only: bool) -> None:
    body = json.dumps(content, ensure_ascii=ascii_only).encode()
    check_sound(normalize(subject, {}, body, resolve))


@given(contents(), subjects)
@settings(max_examples=300)
def test_any_event_has_the_same_outcome_each_time(content: dict[str, Any], subject: str) -> None:
    first = outcome(content, subject)
    check_sound(first)
    again = outcome(content, subject)
    assert first == again
    if isinstance(first, Canonical) and isinstance(again, Canonical):
        assert first.body == again.body


@given(contents(), st.data())
def test_a_damaged_body_has_an_outcome(content: dict[str, Any], data: st.DataObject) -> None:
    body = json.dumps(content).encode()
    cut = data.draw(st.integers(0, len(body)))
    check_sound(outcome(body[:cut] + data.draw(st.binary(max_size=3)) + body[cut + 1 :]))


@pytest.mark.parametrize(
    "inside",
    ["NaN", "Infinity", "-Infinity", '"\\ud800"', '"\\udc00x"', '"\\ud800\\ud800"', "01", "'x'"],
)
def test_what_is_no_json_is_undecodable(inside: str) -> None:
    refused = refusal(f'{{"event": "breaker.reset", "x": {inside}}}'.encode())
    assert refused.code is Code.UNDECODABLE


@pytest.mark.parametrize(
    "body", [b"\xff\xfe\x00", b'{"event": "\xff"}', b'{"a": 1', b"hex8_2p", b"{}{}"]
)
def test_bytes_that_are_no_json_are_undecodable(body: bytes) -> None:
    assert refusal(body).code is Code.UNDECODABLE


def test_whoever_sends_nan_is_told_what_to_send_instead() -> None:
    assert "send null" in refusal(b'{"event": "breaker.reset", "x": NaN}').reason


@pytest.mark.parametrize("depth", [*range(200, 1_100, 25), 10_000, 1_000_000])
@pytest.mark.parametrize(
    "shape",
    [
        "{deep}",
        '{{"event": "breaker.reset", "x": {deep}}}',
        '{{"event": "breaker.reset", "payload": {{"x": {deep}}}, "x": {deep}}}',
        '{{"event": "breaker.reset", "config": {deep}, "config_key": {deep}}}',
        '{{"event": "breaker.reset", "payload": "{deep}"}}',
        '{{"event": "breaker.reset", "payload": "{{\\"x\\": {deep}}}", "x": {deep}}}',
        '{{"event": {deep}}}',
        '{{"event": "selfplay.completed", "games": {deep}, "games_played": {deep}}}',
    ],
)
def test_any_depth_has_an_outcome(shape: str, depth: int) -> None:
    check_sound(outcome(shape.format(deep=nested(depth)).encode()))


@pytest.mark.parametrize("digits", [20, 400, 4_299, 4_300, 100_000])
@pytest.mark.parametrize(
    "field", ["x", "num_players", "timestamp", "config", "final_loss", "games"]
)
@pytest.mark.parametrize("name", ["breaker.reset", "TRAINING_COMPLETE", "selfplay.completed"])
def test_any_number_has_an_outcome(name: str, field: str, digits: int) -> None:
    body = f'{{"event": "{name}", "board_type": "hex8", "{field}": {"9" * digits}}}'
    check_sound(outcome(body.encode()))


def test_huge_texts_have_an_outcome() -> None:
    huge = "EventType." * 100_000
    check_sound(outcome({"event": huge, "type": huge}))
    check_sound(outcome({"event": "breaker.reset", "source": huge, "config": huge, huge: 1}))
    check_sound(outcome({"event": "breaker.reset", "payload": huge}))


def test_no_body_is_an_empty_payload() -> None:
    assert canonical(b"", "legacy.breaker%2Ereset").payload == {}
    assert refusal(b"").code is Code.UNKNOWN_NAME


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ([], "a list"),
        ("x", "a string"),
        (7, "a number"),
        (0.5, "a number"),
        (True, "a boolean"),
        (None, "null"),
    ],
)
def test_a_body_that_is_no_object_is_called_what_it_is(content: object, kind: str) -> None:
    refused = refusal(content, "legacy.TRAINING_COMPLETE")
    assert refused.code is Code.INVALID
    assert f"the body is {kind}," in refused.reason
    assert refused.name == "TRAINING_COMPLETE"


# Nothing is dropped.


@given(contents(), subjects)
@settings(max_examples=500)
@example({"event": "breaker.reset", "payload": {"x": 1}, "x": True}, NOWHERE)
@example({"event": "breaker.reset", "payload": {"x": [1]}, "x": [1.0]}, NOWHERE)
@example({"event": "breaker.reset", "config": "a", "config_key": "b"}, NOWHERE)
@example({"event": "breaker.reset", "payload": '{"x": 1}', "data": {"x": 2}, "x": 3}, NOWHERE)
def test_every_value_that_was_sent_is_in_the_canonical_payload(
    content: dict[str, Any], subject: str
) -> None:
    result = outcome(content, subject)
    if isinstance(result, Refusal):
        return
    kept = set(leaves(result.payload))
    for key, value in content.items():
        if key in NAME_KEYS and value == result.name:
            continue
        if key in PAYLOAD_KEYS and isinstance(value, str) and not kept >= set(leaves(value)):
            value = msgspec.json.decode(value)
            assert isinstance(value, dict)
        if key in PAYLOAD_KEYS and value == {}:
            continue
        assert set(leaves(value)) <= kept


@given(contents(), subjects)
def test_a_canonical_payload_holds_nothing_that_was_neither_sent_nor_implied(
    content: dict[str, Any], subject: str
) -> None:
    result = outcome(content, subject)
    if isinstance(result, Refusal):
        return
    sent = set(leaves(content)) | {b"{}", b"[]"}
    for key in PAYLOAD_KEYS:
        if isinstance(text := content.get(key), str):
            try:
                sent |= set(leaves(msgspec.json.decode(text)))
            except msgspec.DecodeError:
                continue
    match = resolve(result.name)
    assert match is not None
    implied = set(leaves(match.sets)) | {msgspec.json.encode(result.payload.get("config"))}
    assert set(leaves(result.payload)) <= sent | implied


# Where the name stands.


@pytest.mark.parametrize("key", NAME_KEYS)
@pytest.mark.parametrize("name", ["TRAINING_COMPLETE", "training.complete", "TrainingComplete"])
def test_the_name_stands_under_one_of_the_usual_keys(key: str, name: str) -> None:
    found = canonical({key: name, "config": "hex8_2p"})
    assert (found.type, found.name) == ("training.completed", name)
    assert found.payload == {"config": "hex8_2p"}


@pytest.mark.parametrize(
    "subject",
    [
        "legacy.TRAINING_COMPLETE",
        "legacy.training.completed",
        "legacy.worker7.training_complete",
        "legacy.training%2Ecompleted",
        "legacy.StageEvent%2ETRAINING_COMPLETE",
    ],
)
def test_or_in_the_subject(subject: str) -> None:
    assert canonical({"config": "hex8_2p"}, subject).type == "training.completed"


def test_the_most_telling_key_names_the_event_and_the_others_stay() -> None:
    found = canonical({"event_type": "breaker.reset", "type": "TRAINING_COMPLETE", "name": "n"})
    assert found.type == "breaker.reset"
    assert found.payload == {"type": "TRAINING_COMPLETE", "name": "n"}


def test_a_key_with_an_unknown_name_does_not_hide_the_next() -> None:
    found = canonical({"event_type": "nobody knows", "event": "breaker.reset"})
    assert found.type == "breaker.reset"
    assert found.payload == {"event_type": "nobody knows"}


@pytest.mark.parametrize("key", ["type", "event", "name"])
def test_fields_of_a_bare_payload_do_not_overrule_a_subject_that_names_an_event(key: str) -> None:
    content = {key: "TRAINING_COMPLETE", "config": "hex8_2p"}
    found = canonical(content, "legacy.breaker%2Ereset")
    assert found.type == "breaker.reset"
    assert found.payload == content


@pytest.mark.parametrize("key", ["type", "event", "name"])
def test_beside_a_payload_they_do(key: str) -> None:
    content = {key: "TRAINING_COMPLETE", "payload": {"config": "hex8_2p"}}
    found = canonical(content, "legacy.breaker%2Ereset")
    assert found.type == "training.completed"
    assert found.payload == {"config": "hex8_2p"}


def test_event_type_always_speaks_of_the_event() -> None:
    content = {"event_type": "TRAINING_COMPLETE", "config": "hex8_2p"}
    assert canonical(content, "legacy.breaker%2Ereset").type == "training.completed"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_an_unknown_name_is_refused_by_its_name(name: str) -> None:
    assume(name.strip() and legacy.resolve(name) is None)
    refused = refusal({"event_type": name})
    assert (refused.code, refused.name) == (Code.UNKNOWN_NAME, name[:200])


def test_an_unknown_name_in_the_subject_is_refused_by_its_name() -> None:
    refused = refusal({"config": "hex8_2p"}, "legacy.worker7.mystery%20model")
    assert refused.code is Code.UNKNOWN_NAME
    assert refused.name == "mystery model"
    assert "'mystery model'" in refused.reason


def test_no_name_at_all_is_said_so() -> None:
    refused = refusal({"event_type": " ", "type": 7}, "legacy.")
    assert (refused.code, refused.name) == (Code.UNKNOWN_NAME, "")
    assert "no event name" in refused.reason


def test_a_name_that_an_operator_mapped_is_understood() -> None:
    made = {
        "mysterymodel": mappings.Mapping(
            name="mystery_model", target="model.promoted", at="2026-01-05T10:00:00.000000Z"
        )
    }
    body = b'{"event": "Mystery-Model", "model_id": "v7"}'
    found = normalize(NOWHERE, {}, body, lambda name: mappings.resolve(name, made))
    assert isinstance(found, Canonical)
    assert (found.type, found.payload) == ("model.promoted", {"model": "v7"})
    assert "run time" in found.rule


# Where the payload stands.


@pytest.mark.parametrize("key", PAYLOAD_KEYS)
@pytest.mark.parametrize("as_text", [False, True])
def test_the_payload_stands_under_a_usual_key_also_as_text(key: str, as_text: bool) -> None:
    payload = {"config": "hex8_2p", "x": [1, None]}
    content = {"event": "breaker.reset", key: json.dumps(payload) if as_text else payload}
    assert canonical(content).payload == payload


def test_or_beside_the_name() -> None:
    assert canonical({"event": "breaker.reset", "x": 1}).payload == {"x": 1}


def test_what_stands_beside_the_payload_fills_it_up() -> None:
    content = {"event": "breaker.reset", "payload": {"x": 1}, "source": "w7", "data": {"y": 2}}
    assert canonical(content).payload == {"x": 1, "source": "w7", "data": {"y": 2}}


def test_what_stands_beside_gives_way_where_names_collide() -> None:
    content = {
        "event": "breaker.reset",
        "payload": {"x": 1, "envelope_x": 2},
        "x": 3,
        "envelope_x_": 4,
    }
    assert canonical(content).payload == {
        "x": 1,
        "envelope_x": 2,
        "envelope_x_": 4,
        "envelope_x__": 3,
    }


def test_said_twice_is_said_once() -> None:
    content = {
        "event": "breaker.reset",
        "payload": {"x": {"a": 1, "b": [2]}},
        "x": {"b": [2], "a": 1},
    }
    assert canonical(content).payload == {"x": {"a": 1, "b": [2]}}


@pytest.mark.parametrize("other", [True, 1.0, "1", [1]])
def test_equal_to_python_is_not_the_same_json(other: object) -> None:
    found = canonical({"event": "breaker.reset", "payload": {"x": 1}, "x": other}).payload
    assert found == {"x": 1, "envelope_x": other}
    assert type(found["envelope_x"]) is type(other)


def test_a_payload_of_null_is_an_empty_one() -> None:
    assert canonical({"event": "breaker.reset", "payload": None, "x": 1}).payload == {"x": 1}


@pytest.mark.parametrize(
    ("payload", "kind"), [(["hex8_2p"], "a list"), ("forty games", "a string"), (7, "a number")]
)
def test_a_payload_that_is_no_object_is_called_what_it_is(payload: object, kind: str) -> None:
    refused = refusal({"type": "TRAINING_COMPLETE", "data": payload})
    assert refused.code is Code.INVALID
    assert f"`data` is {kind}" in refused.reason
    assert refused.name == "TRAINING_COMPLETE"


def test_a_bare_payload_may_have_a_field_called_data() -> None:
    assert payload_of("breaker%2Ereset", {"data": [1, 2]}) == {"data": [1, 2]}


# What fields are called.


@pytest.mark.parametrize("alias", ALIASES["config"])
def test_a_configuration_has_one_name_on_every_type(alias: str) -> None:
    for name in ("breaker%2Ereset", "TRAINING_COMPLETE"):
        assert payload_of(name, {alias: "hex8_2p"}) == {"config": "hex8_2p"}


@pytest.mark.parametrize("alias", ["node_id", "node_name", "host_id", "hostname", "host"])
def test_a_node_has_one_name_on_every_type(alias: str) -> None:
    for name in ("breaker%2Ereset", "selfplay%2Ecompleted"):
        found = payload_of(name, {alias: "gpu-1", "config": "hex8_2p"})
        assert found == {"node": "gpu-1", "config": "hex8_2p"}


def declared_aliases() -> list[tuple[str, str, str]]:
    """Type, field and alias, wherever a type declares the field and not the alias."""
    found = []
    for entry in catalogue.all_types():
        fields = {f.name for f in msgspec.structs.fields(entry.struct)} if entry.struct else set()
        found += [
            (entry.name, field, alias)
            for field, aliases in ALIASES.items()
            if field in fields
            for alias in aliases
            if alias not in fields
        ]
    return found


@pytest.mark.parametrize(("type_name", "field", "alias"), declared_aliases())
def test_an_alias_of_a_declared_field_folds_onto_it(type_name: str, field: str, alias: str) -> None:
    required = {"config": "hex8_2p", "letter": "x", "service": "x", "consumer": "x", "hop": 1}
    required |= {"reason": "x", "name": "x", "type": "x", "until": "x"}
    required |= {"artifact": "x", "dataset": "x", "node": "x"}
    entry = catalogue.by_name()[type_name]
    assert entry.struct is not None
    payload = {f.name: required[f.name] for f in msgspec.structs.fields(entry.struct) if f.required}
    payload.pop(field, None)
    for value in ("x1", 7, 0.5, True, ["a"], {"a": 1.0}):
        content = {"event_type": type_name, "payload": {**payload, alias: value}}
        result = outcome(content)
        if isinstance(result, Canonical) and result.payload.get(field) == value:
            assert alias not in result.payload
            return
    pytest.fail(f"no value of {alias} becomes {field}")


def test_seconds_have_one_name_where_the_type_declares_them() -> None:
    content = {"config": "hex8_2p", "duration_seconds": 12.5}
    assert payload_of("evaluation%2Ecompleted", content)["duration_s"] == 12.5
    assert payload_of("breaker%2Ereset", content)["duration_seconds"] == 12.5


def test_a_second_alias_with_another_value_stays() -> None:
    found = payload_of("breaker%2Ereset", {"host": "10.0.0.7", "node_id": "gpu-1"})
    assert found == {"node": "gpu-1", "host": "10.0.0.7"}


def test_a_second_alias_with_the_same_value_goes() -> None:
    assert payload_of("breaker%2Ereset", {"host": "a", "node_id": "a"}) == {"node": "a"}


def test_an_alias_beside_the_field_itself_stays_when_it_differs() -> None:
    found = payload_of("TRAINING_COMPLETE", {"config": "hex8_2p", "config_key": "hex8_3p"})
    assert found == {"config": "hex8_2p", "config_key": "hex8_3p"}


def test_a_field_that_is_null_takes_its_alias() -> None:
    found = payload_of("TRAINING_COMPLETE", {"config": None, "config_key": "hex8_2p"})
    assert found == {"config": "hex8_2p"}


@pytest.mark.parametrize("value", [None, "", 7, ["gpu-1"], {"name": "gpu-1"}])
def test_an_alias_whose_value_does_not_fit_stays_under_its_own_name(value: object) -> None:
    assert payload_of("breaker%2Ereset", {"host": value}) == {"host": value}


def test_an_alias_that_the_type_declares_itself_is_no_alias() -> None:
    both = [
        (entry.name, field, alias)
        for entry in catalogue.all_types()
        if entry.struct is not None
        for field, aliases in ALIASES.items()
        for alias in aliases
        if {field, alias} <= {f.name for f in msgspec.structs.fields(entry.struct)}
    ]
    assert both
    for type_name, _, alias in both:
        for value in ("x1", 7):
            result = outcome({"event_type": type_name, "config": "hex8_2p", alias: value})
            if isinstance(result, Canonical):
                assert result.payload[alias] == value


# What is filled in.


def test_a_name_sets_the_fields_that_it_implies() -> None:
    found = payload_of("GPU_SELFPLAY_COMPLETE", {"config": "hex8_2p"})
    assert found == {"config": "hex8_2p", "selfplay_type": "gpu"}


def test_a_field_that_was_sent_is_not_overwritten() -> None:
    found = payload_of("GPU_SELFPLAY_COMPLETE", {"config": "hex8_2p", "selfplay_type": "mixed"})
    assert found["selfplay_type"] == "mixed"


def test_a_configuration_is_derived_from_board_and_players() -> None:
    found = payload_of("TRAINING_COMPLETE", {"board_type": "hex8", "num_players": 2})
    assert found == {"board_type": "hex8", "num_players": 2, "config": "hex8_2p"}


def test_a_configuration_that_was_sent_is_not_derived() -> None:
    content = {"board_type": "hex8", "num_players": 2, "config_key": "square8_4p"}
    assert payload_of("TRAINING_COMPLETE", content)["config"] == "square8_4p"


@pytest.mark.parametrize(
    "content", [{"board_type": "hex8"}, {"board_type": "", "num_players": 2}, {"num_players": 2}]
)
def test_half_a_configuration_derives_none(content: dict[str, Any]) -> None:
    assert payload_of("breaker%2Ereset", content) == content


@pytest.mark.parametrize("players", [True, 2.5, "2", None])
def test_players_that_are_no_count_derive_no_configuration(players: object) -> None:
    content = {"board_type": "hex8", "num_players": players}
    assert payload_of("breaker%2Ereset", content) == content


# What does not fit.


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"config_key": 7}, "config"),
        ({"final_loss": 0.5}, "config"),
        ({"config": "hex8_2p", "final_loss": "low"}, "final_loss"),
        ({"config": "hex8_2p", "epochs": 2.5}, "epochs"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_naming_the_field(
    payload: dict[str, Any], field: str
) -> None:
    refused = refusal({"event_type": "TRAINING_COMPLETE", "payload": payload})
    assert refused.code is Code.INVALID
    assert "training.completed" in refused.reason
    assert f"`{field}`" in refused.reason.replace("$.", "")
    assert refused.name == "TRAINING_COMPLETE"


def test_fields_that_no_type_declares_stay_as_they_are() -> None:
    content = {"config": "hex8_2p", "vendor": {"x": [1, {"y": None}]}}
    assert payload_of("TRAINING_COMPLETE", content) == content


# Who and when.


@pytest.mark.parametrize(
    ("payload", "headers", "origin"),
    [
        ({"source": "w7"}, {"ce-source": "old%20worker"}, "old worker"),
        ({"source": "w7", "node": "gpu-1"}, {}, "w7"),
        ({"origin": "w8", "node": "gpu-1"}, {}, "w8"),
        ({"source": 7, "host": "gpu-1"}, {}, "gpu-1"),
        ({}, {}, "legacy"),
    ],
)
def test_the_origin_is_whoever_the_message_names_first(
    payload: dict[str, Any], headers: dict[str, str], origin: str
) -> None:
    assert canonical(payload, "legacy.breaker%2Ereset", headers).origin == origin


def test_the_time_of_the_header_counts_where_the_payload_tells_none() -> None:
    told = {"ce-time": "2026-01-02T03:04:05Z"}
    found = normalize("legacy.training_completed", told, b'{"config": "c"}', legacy.resolve)
    assert isinstance(found, Canonical)
    assert found.time == "2026-01-02T03:04:05.000000Z"
    stamped = normalize(
        "legacy.training_completed",
        told,
        b'{"config": "c", "timestamp": 1760000000}',
        legacy.resolve,
    )
    assert isinstance(stamped, Canonical)
    assert stamped.time == "2025-10-09T08:53:20.000000Z"


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        (1736071200, "2025-01-05T10:00:00.000000Z"),
        (1736071200.25, "2025-01-05T10:00:00.250000Z"),
        ("2025-01-05T10:00:00", "2025-01-05T10:00:00.000000Z"),
        ("2025-01-05T12:00:00.5+02:00", "2025-01-05T10:00:00.500000Z"),
        ("0987-01-05T10:00:00Z", "0987-01-05T10:00:00.000000Z"),
        ("0001-01-01T00:00:00+01:00", None),
        ("yesterday", None),
        (1736071200000, None),
        (12.5, None),
        (10**400, None),
        (True, None),
        (None, None),
        ([], None),
    ],
)
def test_the_time_is_the_timestamp_where_it_is_one(stamp: object, time: str | None) -> None:
    found = canonical({"timestamp": stamp}, "legacy.breaker%2Ereset")
    assert found.time == time
    assert found.payload == {"timestamp": stamp}
