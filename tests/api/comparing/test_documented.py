import httpx

from service.api.comparing.formats import TABLE


def test_it_is_documented(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    said = document["paths"]["/compare"]["post"]
    assert said["operationId"] == "compare"
    assert set(said["responses"]["200"]["content"]) == {row.media_type for row in TABLE}
    assert "CompareRequest" in document["components"]["schemas"]
    assert "CompareResponse" in document["components"]["schemas"]
