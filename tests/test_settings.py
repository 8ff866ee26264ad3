"""Settings: documented, bounded, split, and secrets kept."""

import base64
import json
import math
import re
import socket
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.client.wire import Request
from service.engine.scheduler.estimate.ledger import SMALL_PASSES
from service.settings import Settings, secret, unknown, wrong

ROOT = Path(__file__).parent.parent
FIELDS = Settings.model_fields
NUMBERS = [name for name in FIELDS if isinstance(getattr(Settings(), name), int | float) or name.startswith("max_")]


def test_every_setting_is_described():
    for name, info in FIELDS.items():
        assert info.description, name
        assert info.description.endswith("."), name


def test_every_variable_that_is_named_exists():
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "service").rglob("*.py")):
        named = set(re.findall(r"HEATLENS_[A-Z_]*[A-Z]", path.read_text("utf-8")))
        assert named <= {f"HEATLENS_{name.upper()}" for name in FIELDS}, path


LOCAL = {"localhost", "127.0.0.1", "[::1]"}
NO_BOUNDS = {
    "codec_processes",
    "otel",
    "page",
    "tune",
    "verify",
    "port",
    "score_cache_mib",
    "max_priority",
    "shared_cache",
}


@pytest.mark.parametrize("name", sorted(set(NUMBERS) - NO_BOUNDS))
def test_a_bound_of_nothing_is_refused(name):
    """None of these means anything at zero or below; where it would mean `none`, it says so."""
    for value in (0, -1, math.nan, math.inf, -math.inf):
        with pytest.raises(ValidationError, match=name):
            Settings(**{name: value})


def test_what_is_large_work_is_said_as_it_is_done():
    assert f"of more than {SMALL_PASSES} passes" in FIELDS["worker_threads"].description


@pytest.mark.parametrize("name", [name for name in FIELDS if name.endswith("_timeout_s")])
def test_a_wait_is_as_long_as_a_request_may_ask_for_at_most(name):
    (most,) = (bound.le for bound in Request.model_fields["timeout_s"].metadata if hasattr(bound, "le"))
    assert getattr(Settings(**{name: most}), name) == most < threading.TIMEOUT_MAX
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: math.nextafter(most, math.inf)})


def test_names_tell_units():
    """A number with a unit carries it in its name, so that no value can be read in another one."""
    for name in NUMBERS:
        assert name.endswith(("_s", "_ms", "_mib", "_bytes", "_pixels")) or name in {
            *("port", "otel", "page", "tune", "verify", "worker_threads", "max_targets", "max_connections"),
            *("codec_processes", "max_answer_values", "max_priority", "shared_cache"),
            *("max_batch_rows", "max_waiting_passes", "max_waiting_requests"),
        }


@pytest.mark.parametrize(
    ("host", "allowed", "hosts"),
    [
        ("127.0.0.1", None, LOCAL),
        ("::1", None, LOCAL),
        ("localhost", None, LOCAL),
        ("LOCALHOST", None, LOCAL),
        ("localhost.", None, LOCAL | {"localhost."}),
        ("127.0.0.2", None, LOCAL | {"127.0.0.2"}),
        ("127.1", None, LOCAL | {"127.1"}),
        ("::ffff:127.0.0.1", None, LOCAL | {"[::ffff:127.0.0.1]"}),
        ("here.example", None, LOCAL | {"here.example"}),
        ("0.0.0.0", None, set()),
        ("::ffff:10.0.0.1", None, set()),
        ("both.example", None, set()),
        ("heat.example", None, set()),
        ("0.0.0.0", "Heat.example, other", {"heat.example", "other"}),
        ("127.0.0.1", "*", set()),
    ],
)
def test_the_names_that_a_server_may_be_called_by(monkeypatch, host, allowed, hosts):
    monkeypatch.setattr(socket, "getaddrinfo", _resolved)
    assert Settings(host=host, **({} if allowed is None else {"allowed_hosts": allowed})).hosts == hosts


def _resolved(host, port, there=socket.getaddrinfo):
    """Names without a network."""
    if not host.endswith(".example"):
        return there(host, port, flags=socket.AI_NUMERICHOST)
    known = {"here.example": ("127.0.1.1", "::1"), "both.example": ("127.0.0.1", "10.0.0.1")}
    if host not in known:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [(None, None, None, "", (address, 0)) for address in known[host]]


@pytest.mark.parametrize("allowed", ["", " , ", "example.org:8000", "*.example.org", "http://a.org", "::1", "a/b"])
def test_names_that_no_request_can_have_are_refused(allowed):
    """No name at all would allow any, and one that none can have would shut out all."""
    with pytest.raises(ValidationError, match=r"allowed_hosts[\s\S]*(write example.org|unset it)"):
        Settings(allowed_hosts=allowed)


@pytest.mark.parametrize("name", [name for name, info in FIELDS.items() if "Path" in str(info.annotation)])
def test_an_empty_path_is_not_the_current_folder(monkeypatch, name):
    monkeypatch.setenv(f"HEATLENS_{name.upper()}", "")
    with pytest.raises(ValidationError, match="set and empty"):
        Settings()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("one", ("one",)),
        ("one,two three", ("one", "two", "three")),
        (" one , two ", ("one", "two")),
        ("", ()),
        (",", ()),
    ],
)
def test_lists_are_split_at_commas_and_spaces(monkeypatch, text, found):
    for name in ("MODEL", "API_KEYS", "CORS_ORIGINS"):
        monkeypatch.setenv(f"HEATLENS_{name}", text)
    settings = Settings()
    assert settings.model == settings.cors_origins == found
    assert tuple(key.get_secret_value() for key in settings.api_keys) == found
    assert Settings(model=("a b", "c")).model == ("a b", "c")  # what is a list already is taken as it is


def test_what_is_given_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("HEATLENS_PORT", "1234")
    assert (Settings().port, Settings(port=80).port) == (1234, 80)
    monkeypatch.setenv("HEATLENS_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(ValidationError, match="port"):
        Settings()


def test_keys_are_not_shown():
    settings = Settings(api_keys="a-secret")
    assert "a-secret" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.api_keys == (SecretStr("a-secret"),)


@pytest.mark.parametrize(
    ("word", "good"),
    [("auto", True), ("cpu", True), ("cuda", True), ("cuda:12", True), ("cuda:", False), ("mps", True)],
)
def test_devices(word, good):
    with nullcontext() if good else pytest.raises(ValidationError, match="device"):
        assert Settings(device=word).device == word


@pytest.mark.parametrize("size", [1024, 1025, 5_000_000, FIELDS["max_image_bytes"].default])
@pytest.mark.parametrize("newline", ["", "\n", "\r\n"])
def test_a_body_has_room_for_the_largest_picture(size, newline):
    text = base64.encodebytes(bytes(size)).decode().replace("\n", newline)
    assert len(json.dumps({"image": "data:image/png;base64," + text})) < Settings(max_image_bytes=size).max_body_bytes


def test_a_variable_that_is_no_setting_is_named():
    assert unknown(["HEATLENS_PORT", "heatlens_port", "PATH", "XHEATLENS_PRT"]) == []
    (line,) = unknown(["HEATLENS_MAX_WAITNG_PASSES", "HEATLENS_TUNE"])
    assert "HEATLENS_MAX_WAITNG_PASSES" in line
    assert "did you mean 'HEATLENS_MAX_WAITING_PASSES'?" in line
    assert [line.split()[0] for line in unknown(["HEATLENSAPI_KEYS", "HEAT_LENS_TUNE"])] == [
        "HEATLENSAPI_KEYS",
        "HEAT_LENS_TUNE",
    ]


def test_what_kubernetes_writes_of_a_service_is_no_mistake():
    ends = (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT_8000_TCP",
        "PORT_80_UDP_ADDR",
        "PORT_80_TCP_PORT",
    )
    assert unknown(f"HEATLENS{name}_{end}" for name in ("", "_API", "_AUTH", "2") for end in ends) == []
    assert not secret("HEATLENS_AUTH_PORT")


def test_what_is_wrong_is_told_in_our_own_words() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(allowed_hosts=" , ")
    assert wrong(caught.value, ()).startswith("HEATLENS_ALLOWED_HOSTS: it is set and holds no name; name the hosts")
