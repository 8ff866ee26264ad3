from service.client import wire
from service.client.showing.numbers import alike, told, written


def test_every_number_is_told_and_why_one_is_missing() -> None:
    gain = wire.Gain(blur=1.23456, mean=None, reason="flat <there>")
    assert list(told(wire.Faithfulness(gain=gain))) == [("gain blur", "1.23"), ("gain reason", "flat <there>")]
    metrics = wire.Metrics(random_logit=0.5, reasons={"road": "no target"})
    assert list(told(metrics)) == [("random logit", "0.5"), ("road, none", "no target")]
    assert next(told(wire.Cost(forwards=1234, backwards=0, seconds=0.5))) == ("forwards", "1,234")


def test_how_alike_maps_are_is_a_table_of_names() -> None:
    target = wire.TargetRef(index=1, label="<b>", score=0.5)
    found = wire.Agreement(target=target, methods=[2, 0], spearman=[[1.0, None], [None, 1.0]])
    page = alike(found, ["a", "b", "c"])
    assert page.index("<th>c</th>") < page.index("<th>a</th>")
    assert "&lt;b&gt;" in page
    assert page.count("<td>-</td>") == 2
    assert written(None) == "-"
