"""State dicts, copies and pickles: what goes beyond test_every_rule.py, above all tied weights."""

import copy
import io
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio.nn.quantized import QuantizedModule
from tests.file_models import Encoder, VoiceEncoder, assert_same, encoder_inputs


def quantized_pair(**kwargs: bool) -> tuple[nn.Module, nn.Module]:
    """Two models of one structure with other weights."""
    return tuple(
        intaglio.quantize_dynamic(nn.Sequential(nn.Linear(12, 8, **kwargs), nn.ReLU(), nn.Linear(8, 5)))
        for _ in range(2)
    )


def tied_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight, model[2].bias = model[0].weight, model[0].bias
    return intaglio.quantize_dynamic(model)


def through_torch_save(value: object) -> object:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


class TestLoadStateDict:
    def test_in_strict_mode_every_difference_is_told(self) -> None:
        """pytorch/pytorch#41684, #125564, pytorch/vision#2562: which keys, and why."""
        model, other = quantized_pair()
        state = other.state_dict()
        del state["0.weight_scale"]
        state["2.zero_point"] = torch.zeros(5)
        with pytest.raises(
            RuntimeError, match=r'Missing key\(s\).*"0\.weight_scale"[\s\S]*Unexpected.*"2\.zero_point"'
        ):
            model.load_state_dict(state)

    def test_wrong_shapes_and_dtypes_leave_the_layer_alone(self) -> None:
        model, other = quantized_pair()
        x = torch.randn(3, 12)
        expected = model[0](x)
        for name, wrong in [
            ("0.weight", torch.zeros(8, 11, dtype=torch.int8)),
            ("0.weight", torch.zeros(8, 12)),
            ("0.bias", torch.zeros(8, device="meta")),
            ("0.bias", None),
        ]:
            state = other.state_dict()
            state[name] = wrong
            with pytest.raises(RuntimeError, match=rf"mismatch for {name}.*'0' \(DynamicLinear\) takes"):
                model.load_state_dict(state)
            assert_same(model[0](x), expected)

    def test_not_strict_takes_what_is_there(self) -> None:
        model, other = quantized_pair()
        bias = other.state_dict()["0.bias"]
        found = model.load_state_dict({"0.bias": bias, "extra": bias}, strict=False)
        assert found.unexpected_keys == ["extra"]
        assert "0.weight" in found.missing_keys
        assert_same(model[0].bias, bias)

    def test_float_weights_are_refused_by_name(self) -> None:
        """pytorch/pytorch#32691: a float checkpoint does not slip into a quantized model."""
        model, _ = quantized_pair()
        with pytest.raises(RuntimeError, match=r"mismatch for 0\.weight.*torch\.float32.*torch\.int8"):
            model.load_state_dict(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5)).state_dict())

    def test_other_float_dtypes_are_refused_too(self) -> None:
        model, other = quantized_pair()
        state = other.state_dict()
        state["0.weight_scale"] = state["0.weight_scale"].double()
        with pytest.raises(RuntimeError, match=r"torch\.float64"):
            model.load_state_dict(state)

    def test_non_contiguous_tensors(self) -> None:
        model, other = quantized_pair()
        state = other.state_dict()
        state["0.weight"] = state["0.weight"].T.contiguous().T
        model.load_state_dict(state)
        assert_same(model(torch.ones(2, 12)), other(torch.ones(2, 12)))

    def test_a_model_quantized_again_takes_the_state(self) -> None:
        """What the legacy documentation asks for, which then failed: quantize, then load the state dict."""
        for model, inputs in ((Encoder, encoder_inputs(2, 5)), (VoiceEncoder, (torch.randn(2, 6, 20),))):
            saved, fresh = (intaglio.quantize_dynamic(model().eval(), {nn.Linear}) for _ in range(2))
            fresh.load_state_dict(through_torch_save(saved.state_dict()))
            for name, buffer in saved.named_buffers():
                if name == "offset":
                    fresh.offset.copy_(buffer)
            assert_same(fresh(*inputs), saved(*inputs))

    def test_hooks_run(self) -> None:
        model, other = quantized_pair()
        seen: list[str] = []
        model[0].register_load_state_dict_pre_hook(lambda *args: seen.append("before"))
        model[0].register_load_state_dict_post_hook(lambda *args: seen.append("after"))
        model.load_state_dict(other.state_dict())
        assert seen == ["before", "after"]


class TestTies:
    def test_state_dict_holds_tied_weights_once(self) -> None:
        """pytorch/pytorch#142035, pytorch/ao#4478."""
        model = tied_model()
        for state in (model.state_dict(), model.state_dict(destination=OrderedDict())):
            assert state["0.weight"] is state["2.weight"]
        assert model.state_dict()["0.weight"] is not model.state_dict()["0.weight"]
        plain: dict[str, Tensor] = {}
        model.state_dict(destination=plain)
        assert_same(plain["0.weight"], plain["2.weight"])

    def test_a_changed_state_dict_does_not_come_back(self) -> None:
        model = tied_model()
        first = model.state_dict()
        first["0.weight"].numpy()[:] = 0
        assert model.state_dict()["0.weight"].any()

    def test_they_stay_tied(self) -> None:
        model, other = tied_model(), tied_model()
        small = len(pickle.dumps(nn.Sequential(copy.deepcopy(model[0]))))
        assert len(pickle.dumps(model)) < 1.7 * small
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), through_torch_save(model)):
            assert again[0].packed is again[2].packed
            assert again[0].packed is not model[0].packed
            again.load_state_dict(through_torch_save(other.state_dict()))
            assert again[0].packed is again[2].packed
            assert_same(again(torch.ones(1, 8)), other(torch.ones(1, 8)))

    def test_they_can_be_given_different_weights(self) -> None:
        model = tied_model()
        state = model.state_dict()
        state["2.bias"] = state["2.bias"] + 1
        model.load_state_dict(state)
        assert not torch.equal(model[0].bias, model[2].bias)
        assert_same(pickle.loads(pickle.dumps(model)).state_dict(), model.state_dict())
        assert_same(copy.deepcopy(model).state_dict(), model.state_dict())

    def test_nothing_keeps_the_unpacked_weights(self) -> None:
        model = tied_model()
        state = model.state_dict()
        twins = model[0]._twins
        assert len(twins._saved) == 3
        del state
        assert len(twins._saved) == 0


def test_quantizing_a_model_that_has_run() -> None:
    """pytorch/pytorch#48448: results kept by a forward, or by weight norm, cannot be deep-copied."""

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.linear(x)
            self.history = [self.last, self.last]
            return self.last

    model = Keeps().eval()
    model(torch.randn(2, 4))
    quantized = intaglio.quantize_dynamic(model)
    assert isinstance(quantized.linear, QuantizedModule)
    assert_same(quantized.last, model.last.detach())


def test_moving_to_another_device_is_refused_by_name() -> None:
    model, _ = quantized_pair()
    with pytest.raises(intaglio.InputError, match=r"'0' \(DynamicLinear\) cannot be moved to meta"):
        model.to("meta")
    model.half().double().float()
    assert model[0].packed.dtype == torch.uint8
