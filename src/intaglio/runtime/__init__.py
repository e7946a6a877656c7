"""Models as flat lists of kernel calls, planned and run without torch.

Needs numpy only. The lowerings register themselves: images, arithmetic, floats, recurrent, shapes, tensors.
"""

from intaglio.runtime import arithmetic, floats, images, recurrent, shapes, tensors

__all__: list[str] = []

del arithmetic, floats, images, recurrent, shapes, tensors
