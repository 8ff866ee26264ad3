"""What is known of a request afterwards: its id, a line of log, what it counts for, and its span."""

import asyncio
import http.client
import itertools
import json
import logging
import queue
import re
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service import spans
from service.api.observing.recording import Recording
from service.app import create_app
from service.metrics import Metrics
from service.server.logs import JsonFormatter, TextFormatter, configure
from service.settings import Settings
from tests.api.conftest import PATIENCE_S, holding
from tests.conftest import CATALOG, serving

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
COLOURS = itertools.count()


def test_ids_are_taken_or_given(client, chelsea):
    own = client.post("/predict", files={"image": chelsea}, headers={"x-request-id": "abc-1.2_3"})
    assert own.headers["x-request-id"] == own.json()["id"] == "abc-1.2_3"
    for bad in ("", "a b", "x" * 129, "a\tb", '"'):
        given = client.get("/models", headers={"x-request-id": bad}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", given)
    problem = client.post("/predict", headers={"x-request-id": "mine"})
    assert (problem.status_code, problem.headers["x-request-id"]) == (415, "mine")


def test_headers_of_every_answer(client, chelsea):
    for response in (client.get("/models"), client.get("/nothing"), client.post("/predict", files={"image": chelsea})):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
    timing = client.post("/explain/occlusion", files={"image": chelsea}).headers["server-timing"]
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", timing))
    assert list(stages) == ["read", "decode", "queue", "device", "render", "encode"]


def _samples(text):
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] not in "#"
    }


def test_metrics_count_what_was_done(chelsea):
    with serving(Settings(catalog=CATALOG, device="cpu")) as client:
        for _ in range(2):
            client.post("/explain/score-cam", files={"image": chelsea})
        client.post("/explain/score-cam", json={"model": "made-up"})
        client.post("/explain/made-up", json={})
        text = client.get("/metrics")
        assert text.headers["content-type"].startswith("text/plain")
        found = _samples(text.text)
    assert found['heatlens_requests_total{method="score-cam",model="tiny",status="200"}'] == 2
    for name in ("request", "queue"):
        assert found[f'heatlens_{name}_seconds_count{{method="score-cam",model="tiny"}}'] == 2
    assert found['heatlens_batch_fill_ratio_count{kind="rows"}'] == found['heatlens_batch_rows_count{kind="rows"}']
    assert not [name for name in found if name.startswith(("heatlens_refused", "heatlens_cancelled"))]
    assert found['heatlens_requests_total{method="score-cam",model="none",status="404"}'] == 1
    assert found['heatlens_requests_total{method="none",model="none",status="404"}'] == 1
    assert found['heatlens_cache_lookups_total{outcome="hit"}'] == 1
    assert found['heatlens_rows_avoided_total{method="score-cam"}'] >= 13
    assert found['heatlens_rows_total{model="tiny",precision="fp32"}'] >= 13
    assert found['heatlens_batch_rows_count{kind="rows"}'] >= 2
    assert found['heatlens_models{status="ready"}'] == 5
    assert found["heatlens_passes_waiting"] == 0
    assert found["heatlens_cache_bytes"] > 0
    assert found["process_resident_memory_bytes"] > 1e8
    assert "made-up" not in text.text


def test_one_line_a_request_and_none_that_a_client_wrote(client, chelsea, access):
    client.post("/explain/grad-cam", files={"image": chelsea})
    client.get("/x%0a%7b%22status%22%3a200%7d%0d%1b[31m")
    lines = [access.get(timeout=PATIENCE_S) for _ in range(2)]
    client.get("/models")
    assert access.get(timeout=PATIENCE_S).path == "/models"  # and there was no other between
    read = [json.loads(JsonFormatter().format(record)) for record in lines]
    assert (read[0]["method"], read[0]["model"], read[0]["status"], read[0]["forwards"]) == ("grad-cam", "tiny", 200, 1)
    assert read[1]["status"] == 404
    for record in lines:
        for formatter in (JsonFormatter(), TextFormatter()):
            written = formatter.format(record)
            assert "\n" not in written
            assert "\r" not in written
            assert "\x1b" not in written


def test_defects_are_logged_and_not_shown(client, chelsea, monkeypatch, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("service.codec.inside.decode", broken)
    response = client.post("/predict", files={"image": chelsea})
    assert response.status_code == 500
    assert response.json()["type"] == "urn:heatlens:problem:internal-error"
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert "a secret" in caplog.text
    assert response.headers["x-request-id"]


class Exporter(InMemorySpanExporter):
    """Gives requests' own spans as they end, which is after their answers' last bytes."""

    def __init__(self):
        super().__init__()
        self.served = queue.Queue()

    def export(self, batch):
        result = super().export(batch)
        for span in batch:
            if span.kind == SpanKind.SERVER:
                self.served.put(span)
        return result


@contextmanager
def exporting():
    exporter = Exporter()
    spans.install(exporter)
    try:
        yield exporter
    finally:
        spans.uninstall()


def test_spans_of_each_stage_continue_the_callers_trace(client, chelsea):
    with exporting() as exporter:
        usage = client.post("/explain/grad-cam", files={"image": chelsea}, headers=SENT).json()["usage"]
        served = exporter.served.get(timeout=PATIENCE_S)
    found = {span.name: span for span in exporter.get_finished_spans()}
    stages = {"read", "work", "decode", "explain", "queue", "device", "render", "encode"}
    assert stages | {"POST /explain/{method}"} <= set(found)
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {TRACE}
    assert f"{served.parent.span_id:016x}" == CALLER
    for stage in ("decode", "queue", "device", "render", "encode"):
        assert found[stage].parent.span_id == found["work"].context.span_id
        assert found[stage].kind == SpanKind.INTERNAL
        assert found["work"].start_time <= found[stage].start_time <= found[stage].end_time <= found["work"].end_time
    assert found["queue"].end_time == found["device"].start_time
    batches = [event for event in found["device"].events if event.name == "batch"]
    passes = sum(event.attributes["heatlens.passes"] for event in batches)
    assert passes == usage["forwards"] + 2 * usage["backwards"] > 0


def test_a_requests_span_says_what_was_asked_and_what_it_took(client, chelsea):
    with exporting() as exporter:
        answer = client.post("/explain/grad-cam", files={"image": chelsea}).json()
        served = exporter.served.get(timeout=PATIENCE_S)
    known = dict(served.attributes)
    place = urlsplit(str(client.base_url))
    assert served.name == "POST /explain/{method}"
    assert served.status.is_unset
    assert (
        known.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/explain/{method}",
            "http.response.status_code": 200,
            "url.path": "/explain/grad-cam",
            "url.scheme": "http",
            "server.address": place.hostname,
            "server.port": place.port,
            "network.protocol.version": "1.1",
            "heatlens.method": "grad-cam",
            "heatlens.model": "tiny",
            "heatlens.model.version": answer["model"]["version"],
            "heatlens.forwards": answer["usage"]["forwards"],
            "heatlens.cache": answer["usage"]["cache"],
        }.items()
    )
    assert known["heatlens.batch_rows_mean"] >= 1
    assert "error.type" not in known


def test_a_callers_mistake_is_told_and_only_the_servers_own_are_errors(client, chelsea, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    with exporting() as exporter:
        client.post("/explain/occlusion", files={"image": chelsea}, data={"request": '{"params": {"windw": 1}}'})
        wrong = exporter.served.get(timeout=PATIENCE_S)
        monkeypatch.setattr("service.codec.inside.decode", broken)
        client.post("/predict", files={"image": chelsea})
        defect = exporter.served.get(timeout=PATIENCE_S)
    assert (wrong.attributes["error.type"], wrong.status.is_unset) == ("invalid-parameter", True)
    assert (defect.attributes["error.type"], defect.status.is_ok) == ("internal-error", False)
    assert defect.name == "POST /predict"


def test_lines_name_the_trace_that_they_belong_to(client, chelsea, monkeypatch, capsys):
    """By what is configured for a server, and whatever thread writes them."""
    written = queue.Queue()
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level = root.level
    try:
        configure("info", "json")
        (handler,) = root.handlers
        monkeypatch.setattr(handler, "emit", lambda record: written.put(json.loads(handler.format(record))))

        def line():
            while (found := written.get(timeout=PATIENCE_S))["message"] != "request":
                pass
            return found

        with exporting() as exporter:
            client.post("/explain/cam", files={"image": chelsea}, headers=SENT)
            served, traced = exporter.served.get(timeout=PATIENCE_S), line()
        client.post("/explain/cam", files={"image": chelsea}, headers=SENT)
        plain = line()
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert (traced["trace_id"], traced["span_id"]) == (TRACE, f"{served.context.span_id:016x}")
    assert "trace_id" not in plain


@pytest.fixture(scope="module")
def own():
    """A server whose counters nobody else moves, its batches in hand."""
    with holding(create_app(Settings(catalog=CATALOG, device="cpu", max_waiting_passes=600, bodies_mib=1))) as held:
        yield held


def _long():
    """Return a question of many passes that nobody has asked: what is remembered of another one would answer it."""
    return {"params": {"window": 8, "stride": 1, "fill": f"#{next(COLOURS):06x}"}}


def _ended(access, status):
    """Wait until a request has ended so, and is counted."""
    while access.get(timeout=PATIENCE_S).status != status:
        pass


def _counted(client, before=None):
    """Return what has been counted since then: {sample: by how much}."""
    now = _samples(client.get("/metrics").text)
    return (
        now if before is None else {name: n - before.get(name, 0.0) for name, n in now.items() if n != before.get(name)}
    )


def _by(counted, name, label):
    """Return one counter's samples by one of its labels."""
    named = {key: n for key, n in counted.items() if key.startswith(f"heatlens_{name}{{")}
    return {re.search(f'{label}="(.*?)"', key)[1]: n for key, n in named.items()}


def test_what_counts_names_the_trace_of_an_example(own, body):
    asked, trace = {"accept": "application/openmetrics-text; version=1.0.0"}, "1234567890abcdef1234567890abcdef"
    with exporting() as exporter:
        own.client.post("/explain/cam", json=body(), headers={"traceparent": f"00-{trace}-{CALLER}-01"})
        exporter.served.get(timeout=PATIENCE_S)
    answer = own.client.get("/metrics", headers=asked)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.headers["vary"] == "accept"
    assert re.search(rf'heatlens_request_seconds_bucket{{.*method="cam".*}} .* # {{trace_id="{trace}"}}', answer.text)
    assert trace not in own.client.get("/metrics").text


def test_the_first_event_of_a_stream_is_timed(own, body, access):
    before = _counted(own.client)
    own.client.post("/explain/occlusion", json=body(), headers={"accept": "text/event-stream"})
    own.client.post("/explain/cam", json=body())
    for _ in range(2):
        access.get(timeout=PATIENCE_S)
    found = _counted(own.client, before)
    assert _by(found, "first_event_seconds_count", "method") == {"occlusion": 1}
    first = _by(found, "first_event_seconds_sum", "method")["occlusion"]
    assert 0 < first <= _by(found, "request_seconds_sum", "method")["occlusion"]


def test_a_stream_that_ends_in_an_error_is_counted_as_one(own, body, access):
    """Its status was sent before anybody knew."""
    before = _counted(own.client)
    own.hold()
    with exporting() as exporter:
        asked = body(**_long()) | {"timeout_s": 0.2}
        answer = own.client.post("/explain/occlusion", json=asked, headers={"accept": "text/event-stream"})
        served = exporter.served.get(timeout=PATIENCE_S)
    own.let()
    assert (answer.status_code, "deadline-exceeded" in answer.text) == (200, True)
    line = access.get(timeout=PATIENCE_S)
    assert (line.status, line.error) == (200, "deadline-exceeded")
    assert served.attributes["http.response.status_code"] == 200
    assert served.attributes["error.type"] == "deadline-exceeded"
    assert served.status.status_code == StatusCode.ERROR
    found = _counted(own.client, before)
    assert found['heatlens_requests_total{method="occlusion",model="tiny",status="504"}'] == 1
    assert not _by(found, "cancelled_total", "method")


@pytest.mark.parametrize(("most", "reason"), [(512, "passes"), (1, "requests")])
def test_what_is_refused_is_counted_by_what_was_in_the_way(own, body, access, monkeypatch, most, reason):
    monkeypatch.setattr(own.service.device.admission._places, "total", most)
    before = _counted(own.client)
    with own.busy(json=body(**_long())):
        assert own.client.post("/predict", json=body()).status_code == 429
        _ended(access, 429)
    assert _by(_counted(own.client, before), "refused_total", "reason") == {reason: 1}


def test_bodies_that_find_no_room_are_refused_and_mistakes_are_not(own, access):
    before = _counted(own.client)
    kind = {"content-type": "application/json"}
    assert own.client.post("/predict", content=b" " * 1_200_000, headers=kind).status_code == 429
    assert own.client.post("/predict", json={"image": "AAAA"}).status_code == 415
    _ended(access, 415)
    assert _by(_counted(own.client, before), "refused_total", "reason") == {"bodies": 1}


def test_a_server_that_stops_counts_what_it_refuses_and_not_its_probes(own, body, access, monkeypatch):
    before = _counted(own.client)
    monkeypatch.setattr(own.service.device.admission, "_draining", True)
    assert own.client.post("/predict", json=body()).status_code == 503
    assert own.client.get("/health/ready").status_code == 503
    for _ in range(2):
        _ended(access, 503)
    assert _by(_counted(own.client, before), "refused_total", "reason") == {"draining": 1}


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_who_goes_away_is_counted_and_who_stays_is_not(own, body, access, accept):
    before = _counted(own.client)
    own.hold()
    place = urlsplit(str(own.client.base_url)).netloc
    connection = http.client.HTTPConnection(place, timeout=PATIENCE_S)
    connection.request(
        "POST",
        "/explain/occlusion",
        json.dumps(body(**_long())),
        {"content-type": "application/json", "accept": accept},
    )
    own.wait_for_a_batch()
    connection.close()
    assert own.cancelled.wait(PATIENCE_S)
    own.let()
    assert access.get(timeout=PATIENCE_S).path == "/explain/occlusion"
    own.client.post("/explain/cam", json=body())
    assert _by(_counted(own.client, before), "cancelled_total", "method") == {"occlusion": 1}


def test_a_line_of_log_holds_a_beginning_of_what_was_sent(client, access):
    """Lines wait for whoever reads them."""
    client.request("A" * 300, "/" + "%01" * 1000)
    line = access.get(timeout=PATIENCE_S)
    assert (line.status, line.verb, len(line.path)) == (404, "A" * 32, 256)


def test_a_request_that_the_end_of_the_server_cuts_off_is_told_so():
    """The server's own words for that are a 500 in plain text."""
    metrics, sent = Metrics(), []

    async def app(scope, receive, send):
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    async def run():
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        asking = asyncio.ensure_future(Recording(app, metrics)(scope, None, send))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(run())
    start, body = sent
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"5")
    assert json.loads(body["body"])["type"] == "urn:heatlens:problem:draining"
    assert b'heatlens_refused_total{reason="draining"} 1.0' in metrics.exposition()[0]
