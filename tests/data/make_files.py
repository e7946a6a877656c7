"""Writes the files that tests/test_file_compatibility.py keeps loading: run once for each format version.

    python tests/data/make_files.py 1.0

They are never written again: a later version that cannot load them has broken its users' files.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import intaglio


class Scorer(nn.Module):
    """Loaded without this class."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(12, 8)
        self.second.weight, self.second.bias = self.first.weight, self.first.bias
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 3, bias=False)
        self.register_buffer("offset", torch.randn(8), persistent=False)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        hidden = self.norm(self.first(x) + self.offset[: x.shape[-1]])
        if y is not None:
            hidden = hidden + self.second(y)
        return self.out(hidden) * torch.tensor([1.0, 2.0, 3.0])


def main(version: str) -> None:
    """Two models: one made of known layers, one whose forward is recorded; with an input and its output."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3)))
    x = torch.randn(4, 12)
    for name, model in {"modules": layers, "graph": Scorer()}.items():
        quantized = intaglio.quantize_dynamic(model.eval(), {nn.Linear})
        folder = Path(__file__).parent
        intaglio.save(quantized, folder / f"format-{version}-{name}.safetensors")
        state = {f"state.{key}": value.clone() for key, value in quantized.state_dict().items()}
        with torch.no_grad():
            save_file(
                state | {"x": x, "y": quantized(x)}, folder / f"format-{version}-{name}.expected.safetensors"
            )


if __name__ == "__main__":
    main(sys.argv[1])
