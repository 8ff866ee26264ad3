"""Under the path that a proxy shows it at, the service is what it is elsewhere."""

import re

import pytest

from service.app import create_app
from service.errors import CatalogError
from service.settings import Settings
from tests.api.test_contract import PNG
from tests.conftest import CATALOG, serving_app


@pytest.fixture(scope="module")
def rooted():
    settings = Settings(catalog=CATALOG, model="tiny", device="cpu", root_path="/see/why", api_keys="abc")
    with serving_app(create_app(settings)) as client:
        client.headers["authorization"] = "Bearer abc"
        yield client


@pytest.mark.parametrize("root", ["", "/see/why"])
def test_a_proxy_may_strip_the_path_or_not(rooted, root):
    assert rooted.get(f"{root}/models").json()["models"][0]["name"] == "tiny"
    assert rooted.get(f"{root}/health/ready", headers={"authorization": ""}).status_code == 200  # probes need no key
    assert rooted.get(f"{root}/models", headers={"authorization": ""}).status_code == 401
    assert rooted.post(f"{root}/explain/cam", files={"image": PNG}).status_code == 200
    assert rooted.post(f"{root}/explain/cm", files={"image": PNG}).json()["instance"] == "/explain/cm"
    assert rooted.get(f"{root}/models?x=1").status_code == 422
    assert rooted.get(f"{root}/nothing").status_code == 404


def test_the_contract_says_where_it_is(rooted):
    assert rooted.get("/openapi.json").json()["servers"] == [{"url": "/see/why"}]
    assert rooted.get("/see/why/docs").status_code == 200
    assert 'src="/' not in rooted.get("/docs").text  # a page's own addresses are told from where it is


def test_browsers_are_sent_to_where_the_pages_own_addresses_are_right(rooted):
    """They are told from its last slash on. Programs ask the path itself for a sign of life."""
    browser = {"accept": "text/html"}
    sent = rooted.get("/see/why", headers=browser)
    assert (sent.status_code, sent.headers["location"], sent.headers["vary"]) == (308, "/see/why/", "accept")
    page = rooted.get(sent.headers["location"], headers=browser)
    (script,) = re.findall(r'<script[^>]* src="([^"]+)"', page.text)
    assert rooted.get(str(page.url.join(script))).status_code == 200
    assert rooted.get("/see/why").json() == {"status": "alive"}
    assert rooted.get("/", headers=browser).status_code == 200  # the proxy has stripped it


@pytest.mark.parametrize("path", ["/see/whyever/models", "/see/models"])
def test_a_path_that_begins_alike_is_another_one(rooted, path):
    assert rooted.get(path).status_code == 404


def test_a_path_that_hides_the_services_own_is_refused():
    with pytest.raises(CatalogError, match="hides an address of the service's own, /explain/"):
        create_app(Settings(root_path="/explain"))


@pytest.mark.parametrize("path", ["see", "/see/", "/a b", "//", "/a?b"])
def test_a_path_is_written_in_one_way(path):
    with pytest.raises(ValueError, match="root_path"):
        Settings(root_path=path)
