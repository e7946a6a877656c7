"""Small models that train for quantization, and what tests ask of them."""

from typing import Any

import torch
from torch import Tensor, nn

import intaglio
from intaglio import FakeQuantize, LearnedFakeQuantize, QConfig
from intaglio.fake_quantize import default_fake_quant

LEARNED = QConfig(
    LearnedFakeQuantize.with_args(dtype="uint8"), LearnedFakeQuantize.with_args(dtype="int8", ch_axis=0)
)
"""Learned steps for weights and for activations."""

LEARNED_WEIGHTS = QConfig(default_fake_quant, LearnedFakeQuantize.with_args(dtype="int8", ch_axis=0))


class Net(nn.Module):
    """A convolution with batch norm and ReLU, one with a norm alone, dropout, a plain Linear."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.quant, self.dequant = intaglio.QuantStub(), intaglio.DeQuantStub()
        self.conv, self.bn, self.relu = (
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.conv2, self.bn2 = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, 6, 6)` to `(N, 5)`."""
        y = self.relu(self.bn(self.conv(self.quant(x))))
        y = self.bn2(self.conv2(y))
        y: Tensor = self.dequant(self.fc(self.dropout(torch.flatten(y, 1))))
        return y


def images(seed: int, count: int = 8) -> Tensor:
    """A batch whose range and mean depend on the seed."""
    drawn = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return drawn * (1 + seed % 5) + seed % 3


def make(
    seed: int = 0, qconfig: QConfig | None = None, *, graph: bool = False, dropout: float = 0.0
) -> nn.Module:
    """A prepared `Net` in train mode, the same for the same seed."""
    torch.manual_seed(seed)
    model = Net(dropout).train()
    qconfig = qconfig or intaglio.get_default_qat_qconfig("x86")
    if graph:
        mapping = intaglio.QConfigMapping().set_global(qconfig)
        return intaglio.prepare_qat_fx(model, mapping, (images(0),))
    model.qconfig = qconfig  # type: ignore[assignment]
    return intaglio.prepare_qat(intaglio.fuse_modules_qat(model))


def convert(model: nn.Module, *, graph: bool = False) -> nn.Module:
    """The quantized model."""
    return intaglio.convert_fx(model.eval()) if graph else intaglio.convert(model.eval())


def rounders(model: nn.Module) -> list[tuple[str, FakeQuantize]]:
    """Every fake quantizer and where it stands."""
    return [(path, part) for path, part in model.named_modules() if isinstance(part, FakeQuantize)]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    """One step of training; gives the loss."""
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def state_of(model: nn.Module) -> dict[str, Any]:
    """Copies of parameters and buffers, those included that no checkpoint has."""
    return {
        name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not the same to the bit; NaN is the same as NaN."""
    assert one.keys() == other.keys()
    return [
        name
        for name, value in one.items()
        if value.shape != other[name].shape
        or not torch.equal(
            torch.nan_to_num(value.float(), nan=12345.0), torch.nan_to_num(other[name].float(), nan=12345.0)
        )
    ]
