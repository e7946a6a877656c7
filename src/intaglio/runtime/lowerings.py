"""Everything that plans know how to lower: importing this registers it. May import the lowerings."""

from intaglio.runtime import arithmetic, floats, images, recurrent, shapes, tensors

__all__ = ["arithmetic", "floats", "images", "recurrent", "shapes", "tensors"]
