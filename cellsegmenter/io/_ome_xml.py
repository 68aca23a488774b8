"""OME-XML: the names, sizes, channels and files of the images that it describes."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple
from xml.etree import ElementTree

from ._units import Length, PixelSize, pixel_size

__all__ = ["OmeImage", "parse_ome_xml"]

MOST_PLANES = 10**7  # of one image; more are not meant, and a list of them would fill the memory


class OmeImage(NamedTuple):
    """What OME-XML says of one image."""

    name: str
    sizes: dict[str, int]  # of the axes Z, C, T, Y, X
    pixel_size: PixelSize  # of the full resolution
    channel_names: tuple[str, ...]  # of all channels, or none
    files: tuple[str, ...]  # that hold its planes, beside this one


def parse_ome_xml(xml: str | bytes) -> list[OmeImage]:
    """The images in the order of the file.

    Raises
    ------
    ValueError
        If this is no XML, or the numbers in it are none or absurd.
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"the OME-XML is damaged: {error}") from error
    described = [(image, next(_children(image, "Pixels"), None)) for image in _children(root, "Image")]
    return [
        _image(image.get("Name", ""), pixels, root.get("UUID"))
        for image, pixels in described
        if pixels is not None
    ]


def _image(name: str, pixels: ElementTree.Element, own: str | None) -> OmeImage:
    """An image's description in a file whose identifier is `own`, if it has one."""
    sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in "ZCTYX"}
    if min(sizes.values()) < 1 or prod(sizes[axis] for axis in "ZCT") > MOST_PLANES:
        raise ValueError(f"the OME-XML claims an image of the sizes {sizes}")
    names = [channel.get("Name") for channel in _children(pixels, "Channel")]
    uuids = [uuid for data in _children(pixels, "TiffData") for uuid in _children(data, "UUID")]
    files = [uuid.get("FileName", "") for uuid in uuids if own is None or uuid.text != own]
    return OmeImage(
        name,
        sizes,
        pixel_size(_length(pixels, "Y"), _length(pixels, "X")),
        tuple(str(name) for name in names) if names and all(names) else (),
        tuple(dict.fromkeys(filter(None, files))),
    )


def _length(pixels: ElementTree.Element, axis: str) -> Length | None:
    """The side of a pixel along an axis; of y, if left out, that of x."""
    side = axis if f"PhysicalSize{axis}" in pixels.attrib else "X"
    size = pixels.get(f"PhysicalSize{side}")
    if size is None:
        return None
    return Length(float(size), pixels.get(f"PhysicalSize{side}Unit", "µm"))


def _children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """The child elements of a name, in whichever version of the OME namespace."""
    return (child for child in element if child.tag.rpartition("}")[2] == name)
