from service.api.kserve import documentation


def test_every_route_says_what_may_go_wrong(client):
    paths = client.get("/openapi.json").json()["paths"]
    ours = {path: item for path, item in paths.items() if path.startswith(("/v1", "/v2"))}
    assert len(ours) == 15
    for path, item in ours.items():
        for operation in item.values():
            assert {"401", "503"} <= operation["responses"].keys(), path
            assert operation["operationId"].startswith("kserve_v")


def test_what_asks_has_a_body():
    said = documentation.asking("x", "X.", {"type": "object"})["openapi_extra"]
    assert said["requestBody"]["required"]
    assert {"200", "422", "429"} <= said["responses"].keys()
