"""What OpenAPI says of `POST /compare`."""

from collections.abc import Sequence
from typing import Any

from service.api.documentation import asking, reference, schema_of
from service.api.formats import Format


def comparing(table: Sequence[Format]) -> dict[str, Any]:
    """Return the documentation of `POST /compare`, given what its answers can be sent as."""
    first, *others = table
    content = {first.media_type: {"schema": reference("schemas", "CompareResponse")}} | {
        row.media_type: {"schema": reference("schemas", schema_of(row))} for row in others
    }
    about = "\n".join(f"- `{row.media_type}`: {row.about}" for row in table)
    return asking(
        "compare",
        "compare",
        "Which explanation to believe.",
        "Explain one picture by several methods, and say of each map how well it orders the picture's pixels, whether "
        "its method depends on what the network has learnt, and what it cost. The numbers hold on this picture, and "
        f"add up to no score. A method that does not apply is an entry with its problem.\n\n{about}",
        "CompareRequest",
        {"description": "The maps with their numbers, in the form that `Accept` prefers.", "content": content},
        further=True,
    )
