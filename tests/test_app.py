"""The wiring: which device, whose keys, what stands around what, and that everything ends."""

import asyncio
import base64
import io
import json
import os
import threading

import httpx
import pytest
import torch
from fastapi import FastAPI
from PIL import Image

from service.app import _LOADERS_S, build, close, create_app
from service.errors import CatalogError
from service.server.server import _LAST_S
from service.settings import Settings
from tests import tiny
from tests.conftest import CATALOG, encoded, photograph, serving_app

PAGE = "https://page.example"


# Processes that decode and draw


def test_a_server_decodes_and_draws_in_processes_and_ends_them():
    app = create_app(Settings(catalog=CATALOG, model="tiny", device="cpu", codec_processes=1))
    with serving_app(app) as client:
        codec, picture = app.state.context.pipeline.codec, encoded(photograph("chelsea").resize((60, 40)))
        (before,) = codec.pids
        for size in ("input", "original"):
            asked = {"image": ("cat.png", picture), "request": (None, json.dumps({"output": {"size": size}}))}
            answer = client.post("/explain/grad-cam", files=asked).json()["maps"][0]
            shown = Image.open(io.BytesIO(base64.b64decode(answer["overlay"])))
            assert shown.size == ((32, 32) if size == "input" else (60, 40))
        assert client.post("/explain/grad-cam", files={"image": b"no picture"}).status_code == 415
        told = client.get("/metrics").text
        assert codec.pids == [before]
    assert "heatlens_codec_processes 1.0" in told
    assert 'heatlens_codec_seconds_count{work="see"} 3.0' in told
    assert 'heatlens_codec_seconds_count{work="draw"} 2.0' in told
    assert codec.pids == []
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


# Keys


def _ask(app: FastAPI, *requests: tuple[str, str, dict[str, str]]) -> list[httpx.Response]:
    """Send (verb, path, headers) to an application that has not started: there is no context for routes yet."""

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host") as client:
            return [await client.request(verb, path, headers=headers) for verb, path, headers in requests]

    return asyncio.run(ask())


def test_keys_come_from_the_setting_and_from_the_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("from-the-file\n\n  another \n")
    app = create_app(Settings(catalog=CATALOG, api_keys="one", api_keys_file=file))
    keys = ("one", "from-the-file", "another", "", "two")
    answers = _ask(app, *(("GET", "/methods", {"authorization": f"Bearer {key}"}) for key in keys))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 401, 401]


def test_a_files_byte_order_mark_is_no_part_of_a_key(tmp_path):
    """Editors of Windows write one: the first key would be refused, and a comment would be one."""
    for text, problem in (("first\r\nsecond\r\n", None), ("# ours\nfirst\n", "line 1 begins with #")):
        (tmp_path / "keys").write_text(text, "utf-8-sig", newline="")
        settings = Settings(catalog=CATALOG, api_keys_file=tmp_path / "keys")
        if problem is not None:
            with pytest.raises(CatalogError, match=problem):
                create_app(settings)
            continue
        answers = _ask(
            create_app(settings),
            *(("GET", "/methods", {"authorization": f"Bearer {key}"}) for key in ("first", "second")),
        )
        assert [answer.status_code for answer in answers] == [200, 200]


def test_a_file_without_keys_ends_the_start(tmp_path):
    """Otherwise everybody would be let in."""
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(CatalogError, match="holds no key"):
        create_app(Settings(api_keys_file=tmp_path / "empty"))
    with pytest.raises(CatalogError, match="No such file"):
        create_app(Settings(api_keys_file=tmp_path / "none"))


@pytest.mark.parametrize("keys", ["", " , "])
def test_a_setting_without_a_key_ends_the_start(monkeypatch, keys):
    """A secret that was not found would else leave the server open."""
    monkeypatch.setenv("HEATLENS_API_KEYS", keys)
    with pytest.raises(CatalogError, match="holds no key"):
        create_app(Settings(catalog=CATALOG))


@pytest.mark.parametrize("keys", ["secret priority=5", "secret # alice's", "Bearer secret", "#secret"])
def test_a_setting_of_more_than_keys_ends_the_start(monkeypatch, keys):
    """Each word would be a key that opens."""
    monkeypatch.setenv("HEATLENS_API_KEYS", keys)
    with pytest.raises(CatalogError, match=r"HEATLENS_API_KEYS: a word of it .* would be a key that opens") as caught:
        create_app(Settings(catalog=CATALOG))
    assert "secret" not in str(caught.value)


def test_what_never_ends_is_no_file_of_keys():
    with pytest.raises(CatalogError, match="'/dev/zero': it has more than"):
        create_app(Settings(catalog=CATALOG, api_keys_file="/dev/zero"))


@pytest.mark.parametrize(
    "name",
    [
        *("HEATLENS_API_KEY", "HEATLENS_APIKEYS_FILE", "HEATLENS_KEYS", "HEATLENSAPI_KEYS", "HEATLENS_KYES"),
        *("HEATLENS_API_KYES", "HEATLENS_API_KES", "HEATLENS_API_TOKEN", "HEATLENS_AUTH", "HEATLENS_PASSWORD"),
    ],
)
def test_what_may_be_meant_as_keys_and_is_no_setting_ends_the_start(monkeypatch, name):
    monkeypatch.setenv(name, "one")
    with pytest.raises(CatalogError, match=f"{name} is no setting.*open to everybody"):
        create_app(Settings(catalog=CATALOG))


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [
        ("0.0.0.0", (), True),
        ("::", (), True),
        ("127.0.0.1", (), False),
        ("localhost", (), False),
        ("::", ("a",), False),
    ],
)
def test_a_server_that_everybody_reaches_without_keys_is_warned_of(caplog, host, keys, warned):
    create_app(Settings(catalog=CATALOG, host=host, **({"api_keys": keys} if keys else {})))
    assert ("without keys" in caplog.text) is warned


@pytest.mark.parametrize(("mib", "warned"), [(1, True), (48, True), (49, False), (512, False)])
def test_memory_that_the_largest_picture_never_fits_into_is_warned_of(caplog, mib, warned):
    create_app(Settings(catalog=CATALOG, bodies_mib=mib))
    assert ("no room for the largest pictures" in caplog.text) == warned
    assert not warned or "set 49 or more" in caplog.text


@pytest.mark.parametrize("name", ["HEATLENS_MAX_WAITNG_PASSES", "HEATLENS_API_URL", "HEATLENS_API_PORT"])
def test_what_is_no_setting_is_warned_of(monkeypatch, caplog, name):
    monkeypatch.setenv(name, "one")
    create_app(Settings(catalog=CATALOG))
    assert f"{name} is no setting" in caplog.text


@pytest.mark.parametrize("off", [{}, {"verify": False}, {"tune": False}])
def test_verdicts_are_told_whether_any_are_found_here(off):
    context = build(Settings(catalog=CATALOG, model="tiny", device="cpu", **({"tune": True, "verify": True} | off)))
    try:
        assert context.store.verifier.tests is (not off)
    finally:
        close(context)


# What stands around what


@pytest.fixture
def guarded():
    return create_app(Settings(catalog=CATALOG, api_keys="one", cors_origins=PAGE))


def test_a_page_may_read_why_it_was_refused_and_the_refusal_is_counted(guarded):
    """Recording is outermost, then CORS, then keys: a browser asks first, and without a key."""
    asked = {"origin": PAGE, "access-control-request-method": "POST"}
    first, refused = _ask(guarded, ("OPTIONS", "/predict", asked), ("POST", "/predict", {"origin": PAGE}))
    assert first.status_code == 200
    assert refused.status_code == 401
    for answer in (first, refused):
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["x-request-id"]
    assert "x-request-id" in refused.headers["access-control-expose-headers"]


def test_a_page_may_send_tensors_in_binary_and_read_them(guarded):
    length = "inference-header-content-length"
    asked = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": f"content-type,{length}",
    }
    path = "/v2/models/tiny/infer"
    first, refused = _ask(guarded, ("OPTIONS", path, asked), ("POST", path, {"origin": PAGE}))
    assert (first.status_code, length in first.headers["access-control-allow-headers"].lower()) == (200, True)
    assert length in refused.headers["access-control-expose-headers"]


def test_nobody_learns_of_the_load_without_a_key(guarded):
    """Keys are asked for before room, which would fail here: there is no context yet."""
    without, with_key = {}, {"authorization": "Bearer one"}
    (refused,) = _ask(guarded, ("POST", "/explain/cam", without))
    assert refused.status_code == 401
    (defect,) = _ask(guarded, ("POST", "/explain/cam", with_key))
    assert defect.status_code == 500


def test_opentelemetry_has_to_be_installed_where_it_is_wanted(monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setattr("service.spans.install", missing)
    with pytest.raises(CatalogError, match=r"pip install 'heatlens\[otel\]'"):
        create_app(Settings(catalog=CATALOG, otel=True))


def test_a_misspelt_variable_is_not_passed_over(monkeypatch, caplog):
    monkeypatch.setenv("HEATLENS_MAX_TARGET", "3")
    create_app(Settings(catalog=CATALOG))
    assert "HEATLENS_MAX_TARGET is no setting" in caplog.text
    assert "HEATLENS_MAX_TARGETS'" in caplog.text


# Starting and ending


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("heatlens")}


def _live(app: FastAPI, then) -> None:
    """Start an application, do something, and stop it."""

    async def live():
        async with app.router.lifespan_context(app):
            await asyncio.to_thread(then, app.state.context)

    asyncio.run(live())


BAD = '[models.bad]\nfactory = "builtins:list"\n'


@pytest.mark.parametrize("bad", [False, True])
def test_all_threads_end_with_the_application(tmp_path, bad):
    catalog = CATALOG
    if bad:
        catalog = tmp_path / "catalog.toml"
        catalog.write_text(BAD)
    before, seen = _threads(), set()

    def work(context):
        assert context.store.wait(60)
        for pool in (context.pool, context.long_pool, context.health_pool):
            assert pool.submit(context.device.call, lambda: 1).result() == 1
        seen.update(_threads() - before)

    _live(create_app(Settings(catalog=catalog, device="cpu")), work)
    assert len(seen) >= 4  # the device's, and one of each pool
    assert _threads() == before


BEGUN, GO = threading.Event(), threading.Event()


def loading() -> torch.nn.Module:
    """Return a network once a test lets it go on."""
    BEGUN.set()
    assert GO.wait(60)
    return tiny.classifier()


def test_an_application_stops_while_it_loads(tmp_path):
    """What is under way ends, and nothing further begins."""
    catalog, before = tmp_path / "catalog.toml", _threads()
    factories = {"slow": "tests.test_app:loading", "next": "tests.tiny:classifier"}
    catalog.write_text(
        "".join(f'[models.{name}]\nfactory = "{place}"\ninput_size = 32\n' for name, place in factories.items())
    )
    context = build(Settings(catalog=catalog, model="slow,next", device="cpu"))
    context.store.start()
    assert BEGUN.wait(60)
    context.store.close()
    GO.set()
    close(context)
    assert context.store.entries["slow"].status != "loading"
    assert context.store.entries["next"].status == "loading"
    assert _threads() == before


def test_an_application_that_stops_names_the_model_whose_loading_hangs(tmp_path, caplog):
    BEGUN.clear()
    GO.clear()
    catalog = tmp_path / "catalog.toml"
    catalog.write_text('[models.slow]\nfactory = "tests.test_app:loading"\ninput_size = 32\n')
    context = build(Settings(catalog=catalog, model="slow", device="cpu"))
    context.store.start()
    assert BEGUN.wait(60)
    close(context, 0.01)
    GO.set()
    assert "not waited for: heatlens-loader of slow still loads" in caplog.text
    assert context.store.join(60) == []


def test_a_server_waits_longer_for_its_end_than_for_a_model_that_is_loaded():
    """Else it would say of a model whose loading hangs that a batch does."""
    assert _LOADERS_S < _LAST_S


def test_an_application_may_be_started_again():
    """Its metrics are those of the life that it is in."""
    app = create_app(Settings(catalog=CATALOG, model="tiny", device="cpu"))
    written = []

    def stop(context):
        written.append(context.metrics.exposition()[0])
        context.device.admission.drain(60)
        written.append(context.metrics.exposition()[0])

    for _ in range(2):
        _live(app, stop)
    assert [b"heatlens_draining 1.0\n" in text for text in written] == [False, True, False, True]


def test_mistakes_in_what_is_asked_for_leave_no_thread_behind(tmp_path):
    before = _threads()
    with pytest.raises(CatalogError, match="cannot be read"):
        build(Settings(catalog=tmp_path / "nix.toml", device="cpu"))
    assert _threads() == before


@pytest.mark.parametrize(("given", "mib"), [({}, 144), ({"max_batch_mib": 7}, 7)])
def test_the_memory_of_a_batch_is_the_documented_one(given, mib):
    context = build(Settings(catalog=CATALOG, device="cpu", **given))
    try:
        assert context.device.limits.max_bytes == mib * 2**20
        if not given:
            assert f"Default {mib}," in Settings.model_fields["max_batch_mib"].description
    finally:
        close(context)
