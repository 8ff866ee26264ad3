"""The names of a model's outputs."""

from service.client import wire


def test_labels_are_those_of_the_outputs_in_their_order(client):
    found = client.get("/models/tiny/labels").json()
    assert found == {"model": "tiny", "labels": ["apple", "banana", "cherry", "cherry", "Elderberry"]}
    assert wire.LabelList.model_validate(found)
    assert client.get("/models/tiny").json()["labels"] == 5


def test_of_no_model_there_are_none(client):
    assert client.get("/models/none/labels").status_code == 404
