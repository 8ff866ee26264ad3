"""What a catalogue says comes before what a source knows; what nobody says is assumed, and said."""

from collections.abc import Mapping
from typing import Any

import pytest

from service.errors import CatalogError
from service.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, KEYS, preparing

KNOWN: Mapping[str, Any] = {
    "channels": 3,
    "input_size": (64, 64),
    "resize": 73,
    "fit": "crop",
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
}


def test_nothing_is_assumed_where_the_source_knows() -> None:
    prepared = preparing({}, KNOWN)
    transform = prepared.transform
    assert prepared.assumed == ()
    assert (transform.resize, transform.crop, transform.interpolation) == (73, (64, 64), "bicubic")
    assert (transform.mean, transform.std) == ((0.5,) * 3, (0.25,) * 3)


def test_all_that_is_assumed_is_said() -> None:
    prepared = preparing(dict.fromkeys(KEYS), {})
    assert prepared.assumed == (
        "input_size = [224, 224]",
        "resize = 224",
        'interpolation = "bilinear"',
        "mean = [0.485, 0.456, 0.406]",
        "std = [0.229, 0.224, 0.225]",
        'fit = "crop"',
    )
    assert (prepared.transform.mean, prepared.transform.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("given", "resize"),
    [
        ({}, 73),
        ({"input_size": 48}, 48),
        ({"input_size": [48, 96]}, (48, 96)),
        ({"input_size": [48, 96], "resize": 100}, 100),
        ({"fit": "squash"}, (64, 64)),
        ({"fit": "pad", "input_size": [48, 96]}, (48, 96)),
        ({"fit": "squash", "resize": 70}, (70, 70)),
        ({"resize": [70, 80]}, (70, 80)),
    ],
)
def test_scaled_size(given: dict[str, Any], resize: Any) -> None:
    assert preparing(given, KNOWN).transform.resize == resize


@pytest.mark.parametrize(
    ("given", "channels", "mean"),
    [
        ({"channels": 1}, "l", (0.449,)),
        ({"mean": [0.5]}, "l", (0.5,)),
        ({"mean": 0.5}, "rgb", (0.5,) * 3),
        ({"mean": [0.1, 0.2, 0.3, 0.4], "std": 1.0}, "rgba", (0.1, 0.2, 0.3, 0.4)),
        ({"channels": 4}, "rgba", (0.485, 0.456, 0.406, 0.0)),
        ({"channels": 4, "order": "bgr"}, "bgra", (0.406, 0.456, 0.485, 0.0)),
        ({"order": "bgr"}, "bgr", (0.406, 0.456, 0.485)),
        ({"range": [0, 255]}, "rgb", (123.675, 116.28, 103.53)),
        ({"range": [-1, 1]}, "rgb", (-0.03, -0.088, -0.188)),
        ({"range": [0, 255], "mean": [104, 117, 123], "std": 1}, "rgb", (104, 117, 123)),
    ],
)
def test_channels_and_their_statistics(given: dict[str, Any], channels: str, mean: tuple[float, ...]) -> None:
    transform = preparing(given, {}).transform
    assert transform.channels == channels
    assert transform.mean == pytest.approx(mean)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"mean": [123.7, 116.3, 103.5]},
            r"mean: .* is not of values 0 to 1.*divide mean and std by 255, or.*\[0, 255\]",
        ),
        ({"mean": -0.1}, "mean: "),
        ({"std": [58.4, 57.1, 57.4]}, r"std: .* is not of values 0 to 1"),
        ({"std": 0.0}, "std: it has to be above 0"),
        ({"std": 1e-30}, r"std: .* makes inputs of 1e\+30; write the deviation of values 0 to 1"),
        ({"range": [0, 255], "std": [1.0, 1.0, 1e-6]}, r"std: .* makes inputs of 2.6e\+08; .* 0 to 255"),
        ({"range": [0, 255], "std": 1200}, "std: .* is not of values 0 to 255"),
        ({"mean": [0.1, 0.2]}, "mean: 2 numbers for 3 channels; give 3, or one for all"),
        ({"channels": 1, "mean": [0.1, 0.2, 0.3]}, "mean: 3 numbers for 1 channels"),
        ({"channels": 1, "order": "bgr"}, "order: a grey input has one channel"),
        ({"range": [1, 1]}, r"range: \[1, 1\] is empty"),
        ({"window": [5, 5]}, r"window: \[5, 5\] is empty"),
        ({"resize": 60}, r"resize: 60 is less than the input size \(64, 64\)"),
        ({"resize": [64, 63]}, "resize: .* is less than"),
    ],
)
def test_mistakes_name_key_and_remedy(given: dict[str, Any], says: str) -> None:
    with pytest.raises(CatalogError, match=f"^{says}"):
        preparing(given, {"input_size": 64})


def test_zero_to_255_by_the_deviation_stays_sound() -> None:
    """A network that takes 0 to 255 can be told so by dividing by 1/255, as people do."""
    transform = preparing({"mean": 0.0, "std": 1 / 255}, {}).transform
    assert transform.statistics[1] == pytest.approx((1 / 255,) * 3)


def test_statistics_of_the_source_turn_with_the_order() -> None:
    known = dict(KNOWN) | {"mean": (0.1, 0.2, 0.3), "order": "rgb"}
    assert preparing({"order": "bgr"}, known).transform.mean == (0.3, 0.2, 0.1)
    assert preparing({"order": "bgr", "mean": [0.1, 0.2, 0.3]}, known).transform.mean == (0.1, 0.2, 0.3)


def test_other_channels_than_the_source_knows_forget_its_statistics() -> None:
    prepared = preparing({"channels": 1}, KNOWN)
    assert any(line.startswith("mean") for line in prepared.assumed)
    assert prepared.transform.channels == "l"
