"""Fuses the quantization of an image into the convolution that alone reads it.

May import planner and array.
"""

from __future__ import annotations

from intaglio.runtime.calls import Call, HostCall

__all__ = ["fuse_stems"]

Calls = list[Call | HostCall]


def fuse_stems(calls: Calls, kept: set[int]) -> Calls:
    """Without calls that quantize an image for one convolution; `kept` are buffers needed after all calls."""
    readers: dict[int, list[int]] = {}
    for place, call in enumerate(calls):
        for array in call.read():
            readers.setdefault(id(array.buffer), []).append(place)
    fused: Calls = list(calls)
    gone: set[int] = set()
    for place, call in enumerate(calls):
        if not isinstance(call, Call) or call.driver != "quantize_image":
            continue
        q = call.arguments["q"]
        places = readers.get(id(q.buffer), [])
        conv = calls[places[0]] if len(places) == 1 else None
        if id(q.buffer) in kept or not isinstance(conv, Call) or conv.driver != "conv_static":
            continue
        image = conv.arguments["x"]
        if image is None or image.buffer is not q.buffer or image.shape != q.shape or not image.is_image:
            continue
        given = call.arguments
        more = {"values": given["x"], "planes": given["planes"], "scale": given["scale"]}
        limits = {"input_lower": given["lower"], "input_upper": given["upper"]}
        arguments = {**conv.arguments, "x": None, **more, **limits}
        fused[places[0]] = Call(conv.driver, conv.label, arguments, conv.writes, conv.work)
        gone.add(place)
    return [call for place, call in enumerate(fused) if place not in gone]
