"""The table of a comparison's formats."""

from service.api import formats
from service.api.comparing.formats import TABLE


def test_what_is_accepted_is_of_the_table() -> None:
    known = {row.media_type: row for row in TABLE}
    assert formats.accepted("*/*", TABLE) is TABLE[0]
    assert formats.accepted("image/*", TABLE) is known["image/png"]
    assert formats.accepted("image/webp", TABLE) is TABLE[0]  # a sheet is a PNG
    assert formats.accepted("application/zip", TABLE) is known["application/zip"]
    assert formats.accepted("text/html,*/*;q=0.5", TABLE) is TABLE[0]


def test_rows_are_like_those_of_explanations_but_for_what_they_hold() -> None:
    for row in TABLE:
        (other,) = (one for one in formats.TABLE if one.media_type == row.media_type)
        assert (row.extensions, row.streams, row.browsers) == (other.extensions, other.streams, other.browsers)
        assert row.about != other.about
        assert row.encode is not other.encode
