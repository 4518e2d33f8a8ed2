import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import PublishRefused
from interlock.frames import head_of, hpub, subject_bytes
from interlock.headers import parse

names = st.from_regex(r"[A-Za-z0-9-]{1,20}", fullmatch=True).filter(
    lambda name: name not in ("Status", "Description")
)
values = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40).map(str.strip)


@given(st.dictionaries(names, values, max_size=6))
def test_headers_come_out_as_they_went_in(headers: dict[str, str]) -> None:
    assert dict(parse(head_of(headers) + b"\r\n")) == headers


@given(names, st.text(st.sampled_from("ab\r\n :"), max_size=20))
def test_a_value_never_becomes_another_header(name: str, value: str) -> None:
    head = head_of({name: value, "After": "1"})
    assert head.count(b"\r\n") == 3
    assert set(parse(head + b"\r\n")) == {name, "After"}


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ä", "a(1)"])
def test_a_name_that_no_client_may_send_is_refused(name: str) -> None:
    with pytest.raises(PublishRefused, match="header name"):
        head_of({name: "x"})


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0", "\ud800"])
def test_what_is_no_subject_is_refused(subject: str) -> None:
    with pytest.raises(PublishRefused, match="subject"):
        subject_bytes(subject)


@given(st.binary(max_size=200), values)
def test_a_frame_says_its_own_sizes(body: bytes, value: str) -> None:
    added = b"Nats-Batch-Id: x\r\n"
    frame = hpub(b"a.b", b"r.1", head_of({"K": value}), added, body)
    line, _, rest = frame.partition(b"\r\n")
    kind, subject, reply, head, total = line.split(b" ")
    assert (kind, subject, reply) == (b"HPUB", b"a.b", b"r.1")
    assert rest[int(head) : int(total)] == body
    assert rest[: int(head)].endswith(b"\r\n\r\n")
    assert added in rest[: int(head)]
    assert rest[int(total) :] == b"\r\n"
