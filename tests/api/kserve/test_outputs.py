import io

import numpy as np
import pytest

from service.api.kserve import outputs
from service.ask import Ask
from service.engine.scheduler.run import Run
from service.errors import NotApplicable
from tests.api.test_contract import PNG


def _answer(tiny, ask, needs):
    return tiny.pipeline.work(tiny.pipeline.plan(ask), Run(), needs)


@pytest.mark.parametrize(("model", "count"), [("tiny", 5), ("tiny-regression", 1)])
def test_columns_hold_every_output(tiny, model, count):
    facts = tiny.store.get(model).facts
    row = outputs.table(facts)
    answer = _answer(tiny, outputs.whole(Ask.predict({"model": model}, PNG), facts), row.needs)
    table = np.load(io.BytesIO(row.encode(answer)))
    assert table.shape == (len(outputs.names(facts)), count)
    for found, name in zip(table, outputs.names(facts), strict=True):
        np.testing.assert_allclose(found, outputs.columns(answer, facts)[name])
    if "probabilities" in outputs.names(facts):
        np.testing.assert_allclose(table[1].sum(), 1, rtol=1e-5)


def test_maps_that_are_no_heat_are_refused_by_name(tiny):
    row = outputs.MAPS
    heat = np.load(io.BytesIO(row.encode(_answer(tiny, Ask.explain("cam", {"targets": [1, 2]}, PNG), row.needs))))
    assert (heat.ndim, len(heat)) == (3, 2)
    with pytest.raises(NotApplicable, match=r"feature-maps .*\(grid\).*'explanation'"):
        row.encode(_answer(tiny, Ask.explain("feature-maps", {}, PNG), row.needs))
