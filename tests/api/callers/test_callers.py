"""Who a caller is: nobody becomes another one by a header, and nothing of one key answers another."""

import asyncio
import base64
from ipaddress import ip_network

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.callers.callers import Callers, holder, most_urgent, salt, share
from service.api.callers.keys import KEY, Key
from service.settings import Settings
from tests.conftest import CATALOG, serving

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def seen(peer: str | None, *headers: str, proxies=PROXIES, shares="address", key=None) -> tuple[str | None, str]:
    """Return a request's address as those behind see it, and its share."""
    found = []

    async def app(scope, receive, send):
        found.append((scope["client"] and scope["client"][0], share(scope)))

    sent = [(b"x-forwarded-for", header.encode()) for header in headers]
    scope = {"type": "http", "client": peer and (peer, 1), "headers": sent}
    asyncio.run(Callers(app, proxies, shares)(scope | ({KEY: key} if key else {}), None, None))
    return found[0]


@pytest.mark.parametrize(
    ("peer", "headers", "address"),
    [
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # what a client writes before the proxy's own
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.9.9.9"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6", "1.2.3.4", "10.9.9.9"], "1.2.3.4"),
        ("10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        ("10.0.0.1", ["[2001:db8::1]:80"], "2001:db8::1"),
        ("fd00::1", ["::ffff:1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        ("10.0.0.1", ["6.6.6.6, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, , 10.1.1.1"], "10.1.1.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["fe80::2%eth0"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, [fe80::2%" + "A" * 9000 + "]:80"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("9.9.9.9", ["1.2.3.4"], "9.9.9.9"),  # no proxy of ours
        ("9.9.9.9", ["10.0.0.1"], "9.9.9.9"),
        (None, ["1.2.3.4"], None),
    ],
)
def test_behind_a_proxy(peer: str | None, headers: list[str], address: str | None) -> None:
    assert seen(peer, *headers) == (address, holder(address or ""))
    assert seen(peer, *headers, proxies=()) == (peer, holder(peer or ""))  # nobody is trusted: headers say nothing


@given(st.lists(st.text(st.characters(codec="latin-1"), max_size=30), max_size=4))
def test_no_header_of_a_stranger_changes_anything(headers: list[str]) -> None:
    sent = [(b"x-forwarded-for", header.encode("latin-1")) for header in headers]
    scope = {"type": "http", "client": ("9.9.9.9", 1), "headers": sent}

    async def app(*_):
        pass

    asyncio.run(Callers(app, PROXIES, "key")(scope, None, None))
    assert scope["client"] == ("9.9.9.9", 1)


def test_whoever_sends_the_header_for_nothing_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def app(*_):
        pass

    callers = Callers(app, (), "key")
    for _ in range(3):
        scope = {"type": "http", "client": ("9.9.9.9", 1), "headers": [(b"x-forwarded-for", b"1.2.3.4")]}
        asyncio.run(callers(scope, None, None))
    (line,) = caplog.records
    assert "HEATLENS_TRUSTED_PROXIES" in line.getMessage()


def test_shares() -> None:
    key = Key(2, "secret")
    for shares, without, with_key in (("key", "1.1.1.1", "key 2"), ("address", "1.1.1.1", "1.1.1.1"), ("off", "", "")):
        assert seen("1.1.1.1", shares=shares)[1] == without
        assert seen("1.1.1.1", shares=shares, key=key)[1] == with_key


def test_salt_and_priority_are_the_keys() -> None:
    scopes = [{KEY: Key(i, "secret", i)} for i in (1, 2)]
    assert len({salt(scope, shared=False) for scope in [*scopes, {}]}) == 3
    assert {salt(scope, shared=True) for scope in [*scopes, {}]} == {""}
    assert [most_urgent(scope, 0) for scope in [*scopes, {}, {KEY: Key(3, "secret")}]] == [1, 2, 0, 0]


# Over HTTP


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("alice\nbob priority=5\n")
    with serving(Settings(catalog=CATALOG, device="cpu", api_keys_file=file, max_priority=1)) as client:
        yield client


def as_(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_nobody_learns_from_the_cache_what_another_key_has_asked(keyed: httpx.Client, chelsea: bytes) -> None:
    def cache(key: str) -> str:
        return keyed.post("/explain/occlusion", files={"image": chelsea}, headers=as_(key)).json()["usage"]["cache"]

    assert [cache(key) for key in ("alice", "alice", "bob", "bob")] == ["miss", "hit", "miss", "hit"]


def test_one_cache_for_all_keys_where_the_operator_says_so(chelsea: bytes) -> None:
    settings = Settings(catalog=CATALOG, device="cpu", api_keys="alice,bob", shared_cache=True)
    with serving(settings) as client:
        asked = [
            client.post("/explain/occlusion", files={"image": chelsea}, headers=as_(key)).json()["usage"]["cache"]
            for key in ("alice", "bob")
        ]
    assert asked == ["miss", "hit"]


@pytest.mark.parametrize(("key", "most"), [("alice", 1), ("bob", 5)])
def test_priority_has_a_cap(keyed: httpx.Client, chelsea: bytes, key: str, most: int) -> None:
    image = base64.b64encode(chelsea).decode()
    for path in ("/predict", "/explain/grad-cam"):
        for priority in range(-10, 11):
            answer = keyed.post(path, json={"image": image, "priority": priority}, headers=as_(key))
            assert answer.status_code == (200 if priority <= most else 422)
            if priority > most:
                (error,) = answer.json()["errors"]
                assert error["pointer"] == "/priority"
                assert f"above {most}" in error["detail"]
                assert "HEATLENS_MAX_PRIORITY" in error["detail"]


def test_the_cap_holds_for_other_protocols_too(client: httpx.Client, chelsea: bytes) -> None:
    image = base64.b64encode(chelsea).decode()
    sent = {"instances": [{"b64": image}], "priority": 1}
    assert client.post("/v1/models/tiny:predict", json=sent).status_code == 422
    assert client.post("/v1/models/tiny:predict", json=sent | {"priority": 0}).status_code == 200
    tensors = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [image]}]}
    asked = tensors | {"parameters": {"priority": 1}}  # the highest there is
    lowered = client.post("/v2/models/tiny/infer", json=asked)  # whose clients know of no cap
    assert (lowered.status_code, lowered.json()["parameters"]) == (200, {"priority_lowered_to": 0})
    assert client.post("/v2/models/tiny/infer", json=tensors).status_code == 200


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),  # one caller has all of them
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        ("10.1.2.3", ""),  # a proxy of ours speaks for many
        ("fd00::1", ""),
    ],
)
def test_whom_a_connection_counts_for(address: str, expected: str) -> None:
    assert holder(address, "key", PROXIES) == expected
    assert holder(address, "off", PROXIES) == ""
