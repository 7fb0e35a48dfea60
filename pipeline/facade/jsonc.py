"""What Azure's command line sends with a template: JSON whose key `template` has no quotes, and the user's comments.

`az deployment group create` splices the text of the template's file into the request, so that its lines stay as they
are for Azure's messages (JsonCTemplatePolicy of azure-cli). Azure's own service reads this form.
"""

from __future__ import annotations

import re

#: A text, a comment, which may lack its end, or the key: the first that begins at a place is taken.
_PARTS = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*")|(?P<comment>//[^\n]*|/\*(?:.*?\*/|.*))|(?P<key>\btemplate(?=\s*:))', re.DOTALL
)


def to_json(text: str) -> str:
    """The text with the key in quotes and without comments."""
    return _PARTS.sub(_replace, text)


def _replace(found: re.Match[str]) -> str:
    if found["text"] is not None:
        return found["text"]
    return '"template"' if found["key"] is not None else " "
