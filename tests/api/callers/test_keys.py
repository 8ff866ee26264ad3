"""Keys of a file, and what is wrong with one; what a key says is told nowhere."""

import pytest

from service.api.callers.keys import KEY, Key, key_of, no_key, numbered, of_file


def test_a_key_a_line() -> None:
    text = "one\n\n  two priority=5\r\nthree\tpriority=-10 \nschlüssel#\n"
    assert of_file(text) == [("one", None), ("two", 5), ("three", -10), ("schlüssel#", None)]
    assert of_file("") == []


@pytest.mark.parametrize(
    "line", ["secret more", "secret priority", "secret priority=x", "secret priority=1.5", "secret priority=1 x"]
)
def test_a_line_that_is_none_is_named_and_not_shown(line: str) -> None:
    with pytest.raises(ValueError, match="line 2: write one key a line") as caught:
        of_file(f"one\n{line}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("line", ["#", "#alice", "# alice", "  # secret", "#alice priority=5", "#secret1"])
def test_what_was_meant_for_a_comment_is_no_key(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 begins with #: there are no comments") as caught:
        of_file(f"one\n{line}")
    assert "alice" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("word", ["priority=5", "PRIORITY=5", "Bearer", "bearer", "secret" * 3000])
def test_what_stands_beside_keys_is_none(word: str) -> None:
    """As in a setting of `KEY priority=5`: the second word would open."""
    for line in (word, f"{word} priority=1"):
        with pytest.raises(ValueError, match=r"line 2: a (word|key)") as caught:
            of_file(f"one\n{line}")
        assert "secret" not in str(caught.value)
    assert no_key(word)
    assert not no_key("priority5")


def test_priorities_are_bounded() -> None:
    with pytest.raises(ValueError, match="line 1: a priority is -10 to 10"):
        of_file("secret priority=11")


def test_keys_are_numbered_and_one_that_is_there_twice_is_one() -> None:
    keys = numbered([("a", None), ("b", 3), ("a", 5), ("b", None)])
    assert keys == (Key(1, "a", 5), Key(2, "b", 3))
    assert "'a'" not in repr(keys)
    assert key_of({KEY: keys[1]}) is keys[1]
    assert key_of({}) is None
