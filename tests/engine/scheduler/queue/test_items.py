"""What waits is known by itself, not by what it looks like."""

from service.engine.scheduler.queue import Item, Share


def test_two_items_are_never_one():
    one, other = Item("a", "x", 8), Item("a", "x", 8)
    assert one != other
    assert len({one, other}) == 2


def test_an_item_that_says_nothing_is_anybodys_and_holds_nothing():
    item = Item("a", "x", 8)
    assert (item.caller, item.priority, item.passes, item.memory, item.deadline) == ("", 0, 1.0, 0, None)


def test_a_share_knows_where_its_item_was():
    item = Item("a", "x", 8)
    assert Share(item, 3, 7)._asdict() == {"item": item, "rows": 3, "stamp": 7}
