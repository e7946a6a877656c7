"""Models as flat lists of kernel calls, planned and run without torch.

Needs numpy only. The lowerings register themselves: images, arithmetic, shapes.
"""

from intaglio.runtime import arithmetic, images, shapes

__all__: list[str] = []

del arithmetic, images, shapes
