"""Arguments that a maker does not take: the nearest that it takes is named, whoever calls it."""

from functools import partial
from typing import Any

import pytest

from service.errors import CatalogError
from service.models.arguments import calling, refused


class Net:
    def __init__(self, depth: int, num_classes: int = 3) -> None:
        self.kept = depth, num_classes


class Heir(Net):
    pass


def through(**options: Any) -> Any:
    """Hand on what it is given, as libraries do."""
    return Heir(1, **options)


@pytest.mark.parametrize("maker", [through, partial(Net, 1), partial(Heir, 1)])
def test_the_nearest_argument_is_named(maker: Any) -> None:
    given = {"num_clases": 4}
    with pytest.raises(CatalogError) as raised:
        calling("the network", partial(maker, **given), given)
    assert "arguments: the network takes no 'num_clases'; did you mean 'num_classes'?" in str(raised.value)
    assert "Net takes depth, num_classes" in str(raised.value)


def test_other_mistakes_are_said_with_what_was_given() -> None:
    given = {"num_classes": "ten"}
    with pytest.raises(CatalogError, match=r"cannot be made with arguments = .*ten.* \(ValueError: invalid literal"):
        calling("the network", lambda: int(given["num_classes"]), given)


def test_arguments_of_others_are_not_the_users() -> None:
    with pytest.raises(TypeError) as raised:
        through(inner=1)
    assert refused("the network", raised.value, {"num_classes": 3}) is None
    assert refused("the network", ValueError("x"), {}) is None


def test_what_is_made_and_what_was_already_said_pass() -> None:
    assert calling("the network", partial(through, num_classes=5), {"num_classes": 5}).kept == (1, 5)
    with pytest.raises(CatalogError, match="as it is"):
        calling("the network", partial(_say, "as it is"), {})


def _say(text: str) -> None:
    raise CatalogError(text)
