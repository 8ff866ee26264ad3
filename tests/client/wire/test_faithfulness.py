"""The types of numbers about maps: one that is missing is null, and says why."""

from service.client import wire


def test_numbers_stand_beside_their_reasons() -> None:
    gain = wire.Gain(blur=None, mean=3.5, reason="blur: the score hardly drops")
    assert wire.Faithfulness(gain=gain).model_dump()["gain"] == {
        "blur": None,
        "mean": 3.5,
        "reason": "blur: the score hardly drops",
    }


def test_what_is_not_tested_has_no_numbers() -> None:
    untested = wire.Sanity(verdict="not yet tested", reason="memory")
    assert untested.model_dump(exclude_defaults=True) == {"verdict": "not yet tested", "reason": "memory"}
    assert wire.Sanity.model_validate(untested.model_dump()) == untested
