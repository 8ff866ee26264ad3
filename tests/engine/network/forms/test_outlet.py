"""The answer is found in whatever a network returns, or it is said what to name."""

from collections import OrderedDict, namedtuple
from dataclasses import make_dataclass
from types import SimpleNamespace

import pytest
import torch

from service.engine.network.forms.outlet import find
from service.errors import CatalogError

N = 3
TABLE = torch.arange(N * 4.0).view(N, 4)
MAPS = torch.arange(N * 2 * 5 * 5.0).view(N, 2, 5, 5)
Slotted = make_dataclass("Slotted", ["logits"], slots=True)
Pair = namedtuple("Pair", "features scores")

FOUND = {
    "a tensor": (TABLE, TABLE),
    "one axis": (TABLE[:, 0], TABLE[:, :1]),
    "1 x 1 maps": (TABLE[:, :, None, None], TABLE),
    "an axis of one": (TABLE[:, :, None], TABLE),
    "maps": (MAPS, MAPS),
    "half": (TABLE.half(), TABLE.half()),
    "logits of a dictionary": ({"hidden": TABLE + 1, "logits": TABLE}, TABLE),
    "out, as torchvision's": (OrderedDict(out=MAPS, aux=MAPS + 1), MAPS),
    "an object": (SimpleNamespace(logits=TABLE, loss=None), TABLE),
    "the only table of a tuple": ((MAPS, TABLE), TABLE),
    "a list of one": ([TABLE], TABLE),
    "the only maps": ({"masks": MAPS, "count": 3}, MAPS),
    "a dataclass with slots": (Slotted(TABLE), TABLE),
    "a named tuple": (Pair(MAPS, TABLE), TABLE),
    "beside whole numbers": ({"index": TABLE.long(), "scores": TABLE}, TABLE),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_answer_is_found(name) -> None:
    returned, expected = FOUND[name]
    outlet = find(returned, N, None, "mine")
    assert torch.equal(outlet(returned, N), expected)


@pytest.mark.parametrize("item", ["b", 1])
def test_an_item_is_taken_by_its_name_or_number(item) -> None:
    returned = {"a": TABLE, "b": TABLE * 2} if item == "b" else (TABLE, TABLE * 2)
    assert torch.equal(find(returned, N, item, "mine")(returned, N), TABLE * 2)


@pytest.mark.parametrize("item", ["head.logits", "heads.1", "heads.0.inner"])
def test_an_item_of_an_item_is_taken_by_both_names(item) -> None:
    others = {
        "head": {"logits": TABLE + 1, "maps": MAPS},
        "heads": ({"inner": TABLE + 2}, TABLE + 3),
        "head.maps": MAPS,
    }
    added = {"head.logits": 1, "heads.0.inner": 2, "heads.1": 3}[item]
    assert torch.equal(find(others, N, item, "mine")(others, N), TABLE + added)
    with pytest.raises(
        CatalogError, match=r"hold what may be its answer \('head.logits' \(3, 4\).*output = 'head.logits'"
    ):
        find(others | {"head.maps": 1}, N, None, "mine")
    with pytest.raises(CatalogError, match=r"not among the items it returns: .*'heads.0.inner'"):
        find(others, N, "head.probabilities", "mine")


def test_a_single_picture_whose_axis_was_squeezed_away_gets_it_back() -> None:
    outlet = find(TABLE, N, None, "mine")
    assert torch.equal(outlet(TABLE[0], 1), TABLE[:1])
    one = find(TABLE[:, 0], N, None, "mine")
    assert torch.equal(one(TABLE[0, 0], 1), TABLE[:1, :1])


def test_boxes_of_a_picture_in_which_there_is_nothing_may_have_no_axes() -> None:
    none = {"boxes": torch.tensor([]), "labels": torch.tensor([]).long(), "scores": torch.tensor([])}
    one = {"boxes": torch.ones(1, 4), "labels": torch.tensor([3]), "scores": torch.tensor([0.5])}
    returned = [none, one]
    raw = find(returned, 2, None, "mine")(returned, 2)
    assert raw.tolist() == [[[0.0] * 6], [[1.0, 1, 1, 1, 0.5, 3]]]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_scores_of_few_digits_leave_classes_as_they_are(kind) -> None:
    boxes, scores, labels = torch.ones(2, 1, 4), torch.full((2, 1), 0.5, dtype=kind), torch.full((2, 1), 2049)
    listed = [{"boxes": b, "scores": s, "labels": n} for b, s, n in zip(boxes, scores, labels, strict=True)]
    for returned in (listed, {"boxes": boxes, "scores": scores, "labels": labels}):
        assert (find(returned, 2, None, "mine")(returned, 2)[..., 5] == 2049).all()


def test_boxes_with_names_of_classes_are_refused_with_what_to_return() -> None:
    returned = [{"boxes": torch.ones(1, 4), "scores": torch.ones(1), "labels": ["cat"]}] * 2
    with pytest.raises(CatalogError, match="`boxes`, `labels` and `scores`"):
        find(returned, 2, None, "mine")


def test_boxes_with_a_score_for_each_class_are_refused_with_what_to_return() -> None:
    returned = [{"boxes": torch.ones(2, 4), "scores": torch.ones(2, 3), "labels": torch.ones(2).long()}] * 2
    with pytest.raises(CatalogError, match="`boxes`, `labels` and `scores`"):
        find(returned, 2, None, "mine")


def test_boxes_that_fill_up_are_zeros() -> None:
    labels, scores = torch.tensor([[2, -1, -1]]), torch.tensor([[0.5, 0.0, -1.0]])
    for returned in (
        (torch.ones(1, 3, 4), scores, labels),
        [{"boxes": torch.ones(3, 4), "scores": scores[0], "labels": labels[0]}],
    ):
        raw = find(returned, 1, None, "mine")(returned, 1)
        assert raw[0].tolist() == [[1, 1, 1, 1, 0.5, 2], [0] * 6, [0] * 6]


def test_boxes_become_one_tensor_filled_up_with_zeros() -> None:
    def boxes(count):
        return {"boxes": torch.rand(count, 4), "labels": torch.arange(count), "scores": torch.rand(count)}

    returned = [boxes(2), boxes(0), boxes(1)]
    raw = find(returned, N, None, "mine")(returned, N)
    assert raw.shape == (N, 2, 6)
    assert torch.equal(raw[0, :, :4], returned[0]["boxes"])
    assert torch.equal(raw[2, 0, 4:], torch.stack([returned[2]["scores"][0], torch.tensor(0.0)]))
    assert not raw[1].any()
    assert not raw[2, 1].any()


@pytest.mark.parametrize(
    ("returned", "wanted", "message"),
    [
        (TABLE.long(), None, "whole numbers"),
        (TABLE.argmax(1), None, "argmax"),
        (TABLE[:, :0], None, r"shape \(3, 0\), which holds no output"),
        (TABLE.to_sparse(), None, "a sparse tensor.*y.to_dense"),
        (TABLE.T, None, r"shape \(4, 3\) for 3 pictures: one column a picture; let it return y.T"),
        ((TABLE, TABLE + 1), None, "several tensors.*output = 0"),
        ({"a": TABLE, "b": TABLE + 1}, None, "several tensors.*output = 'a'"),
        ({"a": 1}, None, "no tensor"),
        ("text", None, "returned a str"),
        (None, None, "returned a NoneType"),
        (TABLE.mean(), None, "flatten"),
        (TABLE[:2], None, "flatten"),
        (torch.zeros(N, 5, 7), None, "maps"),
        ({"logits": TABLE}, "logit", "did you mean 'logits'"),
        (TABLE, "logits", "among the items"),
        ({"a": 1}, "a", "a int"),
    ],
)
def test_what_is_no_answer_is_refused_with_what_to_do(returned, wanted, message) -> None:
    with pytest.raises(CatalogError, match=message):
        find(returned, N, wanted, "mine")


@pytest.mark.parametrize("usual", ["logits", "out"])
@pytest.mark.parametrize("unfit", [torch.zeros(N, 5, 7), TABLE.long(), TABLE[:2], TABLE.to(torch.complex64)])
def test_a_usual_item_that_is_no_answer_is_refused_with_the_one_to_name(usual, unfit) -> None:
    with pytest.raises(CatalogError, match=r"; or name another item as its answer, as output = 'pooled'$"):
        find({usual: unfit, "pooled": TABLE}, N, None, "mine")
    with pytest.raises(CatalogError) as alone:
        find({usual: unfit, "loss": None}, N, None, "mine")
    assert "another item" not in str(alone.value)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (torch.zeros(N, 24, 36), r"a mask of one class, let it keep the class's axis: y\[:, None\]"),
        (torch.zeros(N, 12, 18), "a mask of one class"),
        (torch.zeros(N, 12, 24), "a detector's raw boxes"),
        (torch.zeros(N, 1, 3), r"drop the axis of one, as y\.flatten\(1\)"),
        (torch.zeros(N, 24, 36, 5), r"channels last; let its forward end with y\.permute\(0, 3, 1, 2\)"),
        ({"masks": torch.zeros(N, 6, 9, 4)}, "channels last"),
        (TABLE.to(torch.complex64), r"complex numbers.*y\.abs\(\)"),
    ],
)
def test_what_shapes_tell_beside_the_inputs_size(returned, says) -> None:
    with pytest.raises(CatalogError, match=says):
        find(returned, N, None, "mine", (24, 36))


@pytest.mark.parametrize("shape", [(24, 24, 36), (5, 24, 36), (5, 3, 5), (36, 24, 36), (2, 2, 3)])
def test_maps_of_the_inputs_proportions_are_maps(shape) -> None:
    maps = torch.rand(N, *shape)
    assert torch.equal(find(maps, N, None, "mine", (24, 36))(maps, N), maps)


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_a_masked_tensor_is_refused_with_what_to_return() -> None:
    with pytest.raises(CatalogError, match=r"a masked tensor; let it return y.to_tensor\(0\)"):
        find(torch.masked.masked_tensor(TABLE, TABLE > 1), N, None, "mine")
