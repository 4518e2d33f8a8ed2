"""From an event to what is published."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.publishing import encode_event, event_headers, key_of
from interlock_schemas import envelope, subjects
from interlock_schemas.event import OpenEvent
from interlock_schemas.node import NodeJoined
from interlock_schemas.training import TrainingCompleted

EVENT = TrainingCompleted(config="hex8_2p", model="v12")

texts = st.text(st.characters(exclude_categories=["Cs"]))


def test_an_event_is_its_payload_alone_on_the_subject_of_its_type() -> None:
    subject, body, headers = encode_event(EVENT, source="trainer-3", id="e1")
    assert subject == "events.training.completed.hex8_2p"
    assert msgspec.json.decode(body) == {"config": "hex8_2p", "model": "v12"}
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-type"] == "training.completed"
    assert headers["ce-source"] == "trainer-3"
    assert headers["ce-id"] == headers["Nats-Msg-Id"] == "e1"
    assert headers["ce-time"].endswith("Z")


def test_an_open_event_is_published_like_a_typed_one() -> None:
    open_event = OpenEvent("training.completed", {"config": "hex8_2p", "model": "v12"})
    typed = encode_event(EVENT, source="a", id="e1")
    opened = encode_event(open_event, source="a", id="e1")
    assert typed[:2] == opened[:2]


def test_each_event_has_an_id_of_its_own() -> None:
    ids = {encode_event(EVENT, source="a")[2]["ce-id"] for _ in range(100)}
    assert len(ids) == 100


def test_a_given_key_ends_the_subject() -> None:
    assert encode_event(EVENT, source="a", key="k")[0] == "events.training.completed.k"


def test_headers_of_the_sender_travel_along_and_cannot_forge_ours() -> None:
    given_headers = {"tenant": "a", envelope.TYPE: "node.lost"}
    headers = encode_event(EVENT, source="a", headers=given_headers)[2]
    assert headers["tenant"] == "a"
    assert headers[envelope.TYPE] == "training.completed"
    assert given_headers == {"tenant": "a", envelope.TYPE: "node.lost"}


def test_an_unknown_type_is_not_published() -> None:
    with pytest.raises(ValueError, match=r"training\.finished"):
        encode_event(OpenEvent("training.finished", {}), source="a")


def test_a_payload_that_does_not_fit_is_not_published() -> None:
    with pytest.raises(msgspec.ValidationError, match="config"):
        encode_event(OpenEvent("training.completed", {"config": 7}), source="a")


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        ({"config": "hex8_2p", "node": "gpu-1"}, "hex8_2p"),
        ({"config": "", "node": "gpu-1"}, "gpu-1"),
        ({"config": 7, "node": "gpu-1"}, "gpu-1"),
        ({"config": None}, None),
        ({}, None),
        (EVENT, "hex8_2p"),
        (NodeJoined(node="gpu-1"), "gpu-1"),
    ],
)
def test_the_key_is_the_configuration_else_the_node(payload: Any, key: str | None) -> None:
    assert key_of(payload) == key


@given(texts.filter(bool), texts)
def test_any_id_and_source_fit_into_headers_and_come_back(id: str, source: str) -> None:
    headers = event_headers("training.completed", id=id, source=source, time="t")
    assert envelope.unescape(headers[envelope.ID]) == id
    assert envelope.unescape(headers[envelope.SOURCE]) == source
    assert all(value.isprintable() and value.isascii() for value in headers.values())


@given(texts)
def test_any_configuration_makes_a_subject(config: str) -> None:
    subject, body, _ = encode_event(TrainingCompleted(config=config), source="a")
    assert subjects.parse_event(subject) == "training.completed"
    assert msgspec.json.decode(body, type=TrainingCompleted).config == config
