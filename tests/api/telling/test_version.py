"""Which build answers."""

import subprocess

import torch

import service
from service.api.telling.version import _revision
from service.app import create_app
from service.settings import Settings
from tests.conftest import CATALOG, serving_app


def test_the_build_is_named(client):
    found = client.get("/version").json()
    assert (found["name"], found["version"], found["device"]) == ("heatlens", service.__version__, "cpu")
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_an_operator_may_name_the_revision():
    app = create_app(Settings(catalog=CATALOG, model="tiny", device="cpu", revision="abc123"))
    with serving_app(app) as client:
        assert client.get("/version").json()["revision"] == "abc123"


def test_the_revision_is_that_which_is_checked_out(tmp_path):
    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        return subprocess.run(("git", *who, *words), cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    found = _revision.__wrapped__
    assert found(tmp_path) is None
    git("init", "-q", ".")
    assert found(tmp_path) is None  # there is no commit yet
    git("commit", "-q", "--allow-empty", "-m", "one")
    head = git("rev-parse", "HEAD").strip()
    assert found(tmp_path) == head
    git("pack-refs", "--all")
    assert found(tmp_path) == head
    git("checkout", "-q", "--detach")
    assert found(tmp_path) == head
