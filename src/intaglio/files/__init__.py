"""What a file says of a model, without a tensor of it: JSON read with distrust, recorded graphs, the recipe.

Needs neither torch nor numpy, so that a file can be read where torch is not installed. May import errors.
"""
