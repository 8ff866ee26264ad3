"""Measurements on disk: which are found, and for what."""

from types import SimpleNamespace

import pytest
import torch

from service.tuning.choice import Measured
from service.tuning.records import Records


def _model(version="v1"):
    return SimpleNamespace(version=version, device=torch.device("cpu"), facts=SimpleNamespace(input_size=(32, 32)))


def test_what_is_written_is_found_for_the_same_model_under_the_same_conditions(tmp_path):
    Records(tmp_path, None, {"cores": 2}).write(_model(), {"answer": [1]})
    assert list(Records(tmp_path, None, {"cores": 2}).found(_model())) == [(Measured(answer=[1]), True)]
    assert list(Records(tmp_path, None, {"cores": 4}).found(_model())) == []
    assert list(Records(tmp_path, None, {"cores": 2}).found(_model("v2"))) == []
    assert [path.name for path in tmp_path.iterdir()] == [Records(tmp_path, None, {"cores": 2}).name(_model())]


def test_what_was_measured_beforehand_is_first_and_with_other_conditions_last(tmp_path):
    image, own = tmp_path / "image", tmp_path / "own"
    Records(image, None, {"cores": 2}).write(_model(), {"answer": [1]})
    Records(image, None, {"cores": 8}).write(_model(), {"answer": [2]})
    Records(own, None, {"cores": 2}).write(_model(), {"answer": [3]})
    Records(own, None, {"cores": 8}).write(_model(), {"answer": [4]})
    found = list(Records(own, image, {"cores": 2}).found(_model()))
    assert found == [(Measured(answer=[1]), True), (Measured(answer=[3]), True), (Measured(answer=[2]), False)]


@pytest.mark.parametrize("text", ["", "[]", "{", "1", "{}", '{"answer": [1], "more": 1}'])
def test_what_is_no_record_is_passed_over(tmp_path, text):
    records = Records(tmp_path, None, {})
    (tmp_path / records.name(_model())).write_text(text)
    assert list(records.found(_model())) == []
    assert [path.suffix for path in tmp_path.iterdir()] == [".damaged"]


def test_of_another_instruction_set_nothing_is_known(tmp_path, monkeypatch):
    records = Records(tmp_path, tmp_path, {})
    records.write(_model(), {"answer": [1]})
    assert list(records.found(_model()))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another one")
    assert list(records.found(_model())) == []


def test_where_nothing_can_be_written_it_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    Records(tmp_path / "file", None, {}).write(_model(), {"answer": [1]})
