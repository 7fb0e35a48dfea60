"""Channels by name: which there are, which of them is new, and how one goes.

A channel is a symbolic link in an image's folder. A new one is made on request only: a mistyped `gold` would be a
channel for ever, and nobody would look at it again.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from pipeline.base.errors import CheckFailed, NotFound, UsageError
from pipeline.base.files import list_folder, sync_folder
from pipeline.base.printable import listed
from pipeline.gallery import CANDIDATE, CHANNEL_NAME, GOLDEN, Gallery
from pipeline.gallery.links import target_of

#: The channels that goldsmith itself moves: they are never new.
BUILT_IN = (GOLDEN, CANDIDATE)


@dataclass(frozen=True)
class Channel:
    """A channel of an image, and the version that it points at; `is_broken` where that version is not there."""

    image: str
    name: str
    version: str
    is_broken: bool = False


def list_channels(gallery: Gallery, image: str) -> list[Channel]:
    """All channels of an image, by name."""
    found = []
    for path in list_folder(gallery.root / image):
        if CHANNEL_NAME.fullmatch(path.name) and (target := target_of(path)):
            found.append(Channel(image, path.name, target, not path.is_dir()))
    return found


def channel_names(gallery: Gallery) -> set[str]:
    """The names of all channels of all images."""
    return {channel.name for image in gallery.names() for channel in list_channels(gallery, image)}


def refuse_new_channel(gallery: Gallery, channel: str) -> None:
    """Raise UsageError (channel-unknown) for a channel that no image has yet, with the name that may be meant."""
    known = {*BUILT_IN, *channel_names(gallery)}
    if channel in known or not CHANNEL_NAME.fullmatch(channel):
        return  # what cannot be a name at all has an error of its own
    near = difflib.get_close_matches(channel.lower(), sorted(known), n=1, cutoff=0.6)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"no image has a channel {channel}",
        name="channel-unknown",
        hint=f"{meant}known: {listed(sorted(known))}; --create makes a new channel",
    )


def remove_channel(gallery: Gallery, image: str, channel: str, *, force: bool = False, dry: bool = False) -> Channel:
    """Remove a channel; the version that it points at stays. Returns what it was.

    Raises NotFound (channel-unknown), CheckFailed (channel-protected) for golden without `force`.
    """
    with gallery.hold(image, dry=dry) as folder:
        channels = list_channels(gallery, image)
        found = next((each for each in channels if each.name == channel), None)
        if found is None:
            names = ", ".join(each.name for each in channels) or "none"
            raise NotFound(f"{image} has no channel {channel}", name="channel-unknown", hint=f"its channels: {names}")
        if channel == GOLDEN and not force:
            raise CheckFailed(
                f"{image}@{GOLDEN} is in use by other images and by `prove {image}`",
                name="channel-protected",
                hint=f"goldsmith gallery rollback {image} moves it back; --force removes it",
            )
        if not dry:
            (folder / channel).unlink()
            sync_folder(folder)
    return found
