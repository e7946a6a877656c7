"""Fashion-MNIST trained in float and with quantization in the loop, at 8 bits and fewer.

`train` is the recipe, to be copied; `data` reads the images, `study` runs the recipe over seeds and bits,
`report` and `plot` show what came out. `python -m examples.fashion_mnist` does it all.
"""
