"""What is served, and whether it serves: methods, models, layers, health."""

from pathlib import Path

import httpx

from service.app import create_app
from service.client import wire
from service.explainers.base import registry
from service.settings import Settings
from tests.api.test_contract import BASE64, METHODS, PNG, QUICK
from tests.conftest import CATALOG, serving, serving_app


def test_methods(client: httpx.Client) -> None:
    listed = wire.MethodList.model_validate(client.get("/methods").json()).methods
    assert [m.name for m in listed] == METHODS
    for one in listed:
        cls = registry()[one.name]
        assert set(one.parameters.get("properties", {})) == set(cls.model_fields)
        assert all(p["description"] for p in one.parameters.get("properties", {}).values())
        assert one.summary
        assert one.summary in one.description
        assert (one.family, one.kind, one.cost, one.reference) == (cls.family, cls.kind, cls.cost, cls.reference)
        assert one.needs == [n for n, on in (("image", cls.needs_image), ("targets", cls.takes_targets)) if on]


def test_models(client: httpx.Client) -> None:
    listed = wire.ModelList.model_validate(client.get("/models").json()).models
    assert [m.name for m in listed if m.default] == ["tiny"]
    assert {m.name for m in listed} == {"tiny", "tiny-regression", "tiny-vgg", "tiny-functional", "tiny-tokens"}
    assert {m.status for m in listed} == {"ready"}
    assert [m.name for m in listed if m.task == "regression"] == ["tiny-regression"]
    for one in listed:
        info = wire.ModelInfo.model_validate(client.get(f"/models/{one.name}").json())
        assert wire.ModelSummary.model_validate(info.model_dump(include=set(wire.ModelSummary.model_fields))) == one
        assert (info.input.height, info.input.width, info.input.resize) == (32, 32, 32)
        assert info.version
        assert info.methods is not None
        assert [m.name for m in info.methods] == METHODS
        for use in info.methods:  # what is said to apply does, and what is not says why
            image = {"image": BASE64} if registry()[use.name].needs_image else {}
            request = {"model": one.name, "params": QUICK.get(use.name, {})} | image
            if one.name == "tiny-tokens" and "layer" in registry()[use.name].model_fields:
                request["params"] = request["params"] | {"layer": "patches"}
            if one.name == "tiny-tokens" and "layers" in registry()[use.name].model_fields:
                request["params"] = {"layers": ["patches"]}
            response = client.post(f"/explain/{use.name}", json=request)
            assert response.status_code == (200 if use.applies else 422), (one.name, use.name, response.text)
            assert use.reason == (None if use.applies else response.json()["detail"])


def test_what_a_method_takes_is_told_before(client: httpx.Client) -> None:
    """As its answer counts it afterwards: what takes few passes, and is asked as it is."""
    known = wire.ModelInfo.model_validate(client.get("/models/tiny").json()).methods
    assert known is not None
    quick = [use for use in known if use.passes is not None and use.passes <= 60]
    assert len(quick) > 15
    for use in known:
        assert (use.passes is None) == (not use.applies), use.name
    for use in quick:
        image = {"image": BASE64} if registry()[use.name].needs_image else {}
        usage = wire.ExplainResponse.model_validate(client.post(f"/explain/{use.name}", json=image).json()).usage
        took = usage.forwards + 2 * usage.backwards + usage.rows_avoided
        assert use.passes is not None
        assert use.passes / 2 <= took <= use.passes, use.name


def test_model_in_full(client: httpx.Client) -> None:
    info = wire.ModelInfo.model_validate(client.get("/models/tiny").json())
    assert (info.outputs, info.labels, info.default_layer, info.rectifiers) == (5, 5, "relu2", 2)
    assert info.head is not None
    assert info.head.layer == "relu2"
    assert client.get("/models/tiny-vgg").json()["head"] is None
    tokens = client.get("/models/tiny-tokens").json()
    assert (tokens["default_layer"], tokens["rectifiers"], tokens["other_activations"]) == ("norm", 0, ["gelu"])


def test_layers(client: httpx.Client) -> None:
    listed = wire.LayerList.model_validate(client.get("/models/tiny/layers").json())
    assert listed.model == "tiny"
    layers = {layer.path: layer for layer in listed.layers}
    assert list(layers)[:6] == ["conv1", "bn1", "relu1", "pool1", "conv2", "relu2"]
    assert (layers["conv2"].type, layers["conv2"].shape, layers["conv2"].spatial) == ("Conv2d", [12, 16, 16], True)
    assert (layers["fc"].shape, layers["fc"].spatial) == ([5], False)
    assert [path for path, layer in layers.items() if layer.default] == ["relu2"]


def test_a_model_that_fails_leaves_the_others_serving(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    bad = '[models.bad]\nfactory = "builtins:list"\n'
    catalog.write_text(CATALOG.read_text().replace("labels.txt", str(CATALOG.parent / "labels.txt")) + bad)
    with serving(Settings(catalog=catalog, device="cpu")) as client:
        assert client.get("/health/ready").json()["models"]["bad"] == "failed"
        assert client.get("/health/ready?model=*").status_code == 200
        assert client.get("/health/ready?model=bad").status_code == 503
        info = wire.ModelInfo.model_validate(client.get("/models/bad").json())
        assert (info.status, info.version, info.methods) == ("failed", None, None)
        assert "returned a list, not an nn.Module" in (info.error or "")
        for response in (
            client.post("/predict", json={"model": "bad", "image": BASE64}),
            client.get("/models/bad/layers"),
        ):
            assert response.status_code == 503
            assert response.json()["type"] == "urn:heatlens:problem:model-unavailable"
            assert "returned a list" in response.json()["detail"]
            assert int(response.headers["retry-after"]) > 0
        assert client.post("/predict", files={"image": PNG}).status_code == 200


def test_verdicts_stand_beside_methods_and_answers() -> None:
    class Known:
        def verdict(self, version: str, method: str) -> wire.Sanity:
            return wire.Sanity(verdict="passes", mprt=0.125, reason=f"{version}: {method}")

    app = create_app(Settings(catalog=CATALOG, model=("tiny",), device="cpu"))
    with serving_app(app) as client:
        store = app.state.context.store
        found = wire.ModelInfo.model_validate(client.get("/models/tiny").json())
        assert [one.sanity for one in found.methods or () if one.sanity is not None] == []  # nothing is measured here
        store.verifier = Known()
        found = wire.ModelInfo.model_validate(client.get("/models/tiny").json())
        for one in found.methods or ():
            assert (one.sanity is not None) == one.applies
            assert one.sanity is None or one.sanity.reason == f"{found.version}: {one.name}"
        files = {"image": PNG}
        answer = wire.ExplainResponse.model_validate(client.post("/explain/cam", files=files).json())
        assert answer.sanity == Known().verdict(answer.model.version, "cam")
        compared = client.post("/compare", files=files | {"request": (None, '{"methods": ["cam"]}')}).json()
        assert wire.CompareResponse.model_validate(compared).methods[0].sanity == answer.sanity
