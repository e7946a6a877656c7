"""`save` and `load`: what comes back computes the same bits and tells the same story."""

import copy
import io
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import intaglio
from intaglio import _core
from intaglio.demo.minilm import MiniLM
from intaglio.demo.voice_encoder import VoiceEncoder as DemoVoiceEncoder
from intaglio.nn.quantized import QuantizedModule
from tests.file_models import (
    RULE_EXAMPLES,
    Branching,
    Encoder,
    VoiceEncoder,
    assert_loads,
    assert_same,
    encoder_inputs,
    example_id,
)


def assert_alike(a: nn.Module, b: nn.Module) -> None:
    """Two `Encoder`s that give the same bits."""
    args = encoder_inputs(2, 5)
    assert_same(a(*args), b(*args))


@pytest.mark.parametrize(("rule", "dtype", "index"), RULE_EXAMPLES, ids=example_id)
def test_each_rule(rule, dtype, index, tmp_path: Path) -> None:
    model, inputs = rule.examples[index]()
    model = nn.ModuleDict({"layer": model.eval()})
    try:
        quantized = intaglio.quantize_dynamic(model, {"layer"}, dtype)
    except intaglio.NothingQuantizedError:
        pytest.skip("the rule refuses this example for this type")
    file = tmp_path / "model.safetensors"
    intaglio.save(quantized, file)

    loaded = intaglio.load(file)
    assert_same(loaded["layer"](*inputs), quantized["layer"](*inputs))
    assert str(intaglio.summary(loaded)) == str(intaglio.summary(quantized))

    fresh, _ = rule.examples[index]()
    loaded = intaglio.load(file, model=nn.ModuleDict({"layer": fresh.eval()}))
    assert_same(loaded["layer"](*inputs), quantized["layer"](*inputs))
    assert str(intaglio.summary(loaded)) == str(intaglio.summary(quantized))

    intaglio.save(quantized["layer"], file)
    assert_same(intaglio.load(file)(*inputs), quantized["layer"](*inputs))


def test_packed_for_the_instruction_set_at_load(tmp_path: Path) -> None:
    x = torch.randn(5, 64)
    quantized = intaglio.quantize_dynamic(nn.Sequential(nn.Linear(64, 48)).eval())
    expected = quantized(x)
    file = tmp_path / "model.safetensors"
    intaglio.save(quantized, file)
    for isa in _core.available_isas():
        _core.force_isa(isa)
        loaded = intaglio.load(file)
        assert torch.equal(loaded(x), expected)
        intaglio.save(loaded, tmp_path / isa)
        assert (tmp_path / isa).read_bytes() == file.read_bytes()


def test_transformer_without_its_class(tmp_path: Path) -> None:
    """pytorch/pytorch#32691, huggingface/transformers#7329: one file, and nothing prepared again."""
    quantized = intaglio.quantize_dynamic(Encoder().eval(), {nn.Linear})
    described = intaglio.save(quantized, tmp_path / "encoder.safetensors")
    assert described.loads_without_class
    calls = [encoder_inputs(2, 9), encoder_inputs(1, 1), encoder_inputs(7, 33)]
    loaded = assert_loads(quantized, tmp_path / "encoder.safetensors", *calls)
    assert type(loaded).__module__.startswith("intaglio.")
    assert repr(loaded).startswith("Encoder(")


def test_lstm_without_its_class(tmp_path: Path) -> None:
    quantized = intaglio.quantize_dynamic(VoiceEncoder().eval())
    intaglio.save(quantized, tmp_path / "voice.safetensors")
    state = (torch.randn(2, 3, 16), torch.randn(2, 3, 16))
    frames = torch.randn(3, 30, 20)
    loaded = assert_loads(
        quantized, tmp_path / "voice.safetensors", (frames,), (torch.randn(1, 7, 20),), (frames, state)
    )
    assert_same(loaded(frames=frames, state=state), quantized(frames, state))
    with pytest.raises(intaglio.InputError, match=r"takes \(frames, state\)"):
        loaded(frames, state, 3)
    with pytest.raises(intaglio.InputError, match="needs a value for 'frames'"):
        loaded()


def test_the_models_of_the_demo_without_their_classes(tmp_path: Path) -> None:
    ids, mask = torch.randint(0, 20, (3, 6)), torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    minilm = MiniLM(vocabulary=20, width=32, heads=4, feedforward=48, layers=2, positions=16)
    for model, calls in (
        (minilm, [(ids,), (ids, mask), (ids[:1, :2], mask[:1, :2])]),
        (DemoVoiceEncoder(mels=8, width=16), [(torch.rand(2, 30, 8),), (torch.rand(1, 7, 8),)]),
    ):
        quantized = intaglio.quantize_dynamic(model)
        intaglio.save(quantized, tmp_path / "model")
        assert_loads(quantized, tmp_path / "model", *calls)


def test_any_container_of_known_layers(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect"),
        nn.BatchNorm2d(8, eps=1e-3),
        nn.Sequential(nn.ReLU6(), nn.AdaptiveAvgPool2d((4, None))),
        nn.Flatten(),
        nn.Linear(8 * 4 * 6, 10, bias=False),
        nn.Softmax(dim=-1),
    ).eval()
    quantized = intaglio.quantize_dynamic(model, {nn.Linear})
    intaglio.save(quantized, tmp_path / "cnn.safetensors")
    loaded = assert_loads(quantized, tmp_path / "cnn.safetensors", (torch.randn(2, 3, 6, 6),))
    assert type(loaded) is nn.Sequential
    assert loaded[1].eps == 1e-3


def test_saving_what_was_loaded(tmp_path: Path) -> None:
    quantized = intaglio.quantize_dynamic(Encoder().eval(), {nn.Linear})
    first, second = tmp_path / "first", tmp_path / "second"
    intaglio.save(quantized, first)
    intaglio.save(intaglio.load(first), second)
    assert_loads(quantized, second, encoder_inputs(2, 5))
    inside = nn.Sequential(intaglio.load(first))
    with pytest.raises(TypeError):
        inside(*encoder_inputs(2, 5))  # Sequential passes one argument: the file must say the same
    assert_alike(intaglio.load(second, model=Encoder()), intaglio.load(first))


def test_loaded_model_inside_another(tmp_path: Path) -> None:
    class Scorer(nn.Module):
        def __init__(self, encoder: nn.Module) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, ids: Tensor, keep: Tensor) -> Tensor:
            embedding = self.encoder(ids, keep)
            return embedding @ embedding.T

    quantized = intaglio.quantize_dynamic(Encoder().eval(), {nn.Linear})
    intaglio.save(quantized, tmp_path / "encoder")
    outer = Scorer(intaglio.load(tmp_path / "encoder"))
    intaglio.save(outer, tmp_path / "scorer")
    assert_loads(outer, tmp_path / "scorer", encoder_inputs(3, 4))


def test_untraceable_model_says_so_when_saved_and_when_loaded(tmp_path: Path) -> None:
    model = Branching().eval()
    quantized = intaglio.quantize_dynamic(model)
    file = tmp_path / "branching.safetensors"
    with pytest.warns(UserWarning, match=r"only be loaded with load\(path, model=.*control flow"):
        described = intaglio.save(quantized, file)
    assert not described.loads_without_class
    assert "control flow" in described.how_to_load
    with pytest.raises(intaglio.FileFormatError, match=r"control flow.*Pass model="):
        intaglio.load(file)
    loaded = intaglio.load(file, model=Branching())
    for x in (torch.randn(3, 8), -torch.ones(3, 8)):
        assert_same(loaded(x), quantized(x))


class TestSharing:
    def test_one_module_at_two_paths(self, tmp_path: Path) -> None:
        layer = nn.Linear(8, 8)
        model = nn.Sequential(layer, nn.ReLU(), layer).eval()
        quantized = intaglio.quantize_dynamic(model)
        file = tmp_path / "shared.safetensors"
        described = intaglio.save(quantized, file)
        assert [t.name for t in described.tensors if t.name.endswith(".weight")] == ["0.weight"]
        loaded = assert_loads(quantized, file, (torch.randn(2, 8),))
        assert loaded[0] is loaded[2]
        for given in (model, nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))):
            loaded = intaglio.load(file, model=given)
            assert loaded[0] is loaded[2]

    def test_tied_packed_weights(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
        model[2].weight, model[2].bias = model[0].weight, model[0].bias
        quantized = intaglio.quantize_dynamic(model)
        assert quantized[0].packed is quantized[2].packed
        file = tmp_path / "tied.safetensors"
        described = intaglio.save(quantized, file)
        assert len(described.tensors) == 3
        for loaded in (assert_loads(quantized, file, (torch.randn(2, 8),)), intaglio.load(file, model=model)):
            assert loaded[0] is not loaded[2]
            assert loaded[0].packed is loaded[2].packed
            assert loaded[2].path == "2"

    def test_tied_float_parameters(self, tmp_path: Path) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding, self.middle = nn.Embedding(11, 8), nn.Linear(8, 8)
                self.head = nn.Linear(8, 11, bias=False)
                self.head.weight = self.embedding.weight

            def forward(self, ids: Tensor) -> Tensor:
                return self.head(self.middle(self.embedding(ids)))

        model = Tied().eval()
        quantized = intaglio.quantize_dynamic(model, {"middle"})
        described = intaglio.save(quantized, tmp_path / "tied.safetensors")
        assert len(described.tensors) == 4
        ids = torch.randint(0, 11, (2, 3))
        for loaded in (
            assert_loads(quantized, tmp_path / "tied.safetensors", (ids,)),
            intaglio.load(tmp_path / "tied.safetensors", model=Tied()),
        ):
            assert loaded.head.weight is loaded.embedding.weight
            assert isinstance(loaded.head.weight, nn.Parameter)

    def test_a_model_that_ties_more_is_refused(self, tmp_path: Path) -> None:
        quantized = intaglio.quantize_dynamic(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
        intaglio.save(quantized, tmp_path / "model")
        layer = nn.Linear(8, 8)
        with pytest.raises(intaglio.ConversionError, match="'2': found the module that is also '0'"):
            intaglio.load(tmp_path / "model", model=nn.Sequential(layer, nn.ReLU(), layer))


class TestStates:
    def test_dtypes_layouts_and_flags(self, tmp_path: Path) -> None:
        class Mixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(4, 4)
                self.brain = nn.Parameter(torch.randn(3, 2).to(torch.bfloat16), requires_grad=False)
                self.register_buffer("count", torch.tensor(3))
                self.register_buffer("mask", torch.tensor([True, False]))
                self.register_buffer("cache", torch.randn(2, 0, 5), persistent=False)
                self.register_buffer("nothing", None)
                self.transposed = nn.Parameter(torch.randn(5, 3).T)
                self.register_buffer(
                    "channels_last", torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
                )
                self.register_buffer("wave", torch.randn(4, dtype=torch.complex64))

            def forward(self, x: Tensor) -> Tensor:
                return self.linear(x) * self.count

        quantized = intaglio.quantize_dynamic(Mixed())
        quantized.linear.train()
        file = tmp_path / "mixed.safetensors"
        intaglio.save(quantized, file)
        for loaded in (intaglio.load(file), intaglio.load(file, model=Mixed())):
            assert [m.training for m in loaded.modules()] == [m.training for m in quantized.modules()]
            for kind in ("named_parameters", "named_buffers"):
                found = dict(getattr(loaded, kind)())
                for name, expected in getattr(quantized, kind)():
                    assert_same(found[name], expected)
                    assert found[name].dtype == expected.dtype
                    assert found[name].stride() == expected.stride()
                    assert found[name].requires_grad == expected.requires_grad
            assert loaded.state_dict().keys() == quantized.state_dict().keys()

    def test_models_on_meta_device_are_filled(self, tmp_path: Path) -> None:
        quantized = intaglio.quantize_dynamic(Encoder().eval(), {nn.Linear})
        intaglio.save(quantized, tmp_path / "encoder")
        with torch.device("meta"):
            empty = Encoder()
        loaded = intaglio.load(tmp_path / "encoder", model=empty)
        assert_alike(loaded, quantized)
        assert empty.word.weight.is_meta

    def test_the_given_model_stays_as_it_was(self, tmp_path: Path) -> None:
        quantized = intaglio.quantize_dynamic(Encoder().eval(), {nn.Linear})
        intaglio.save(quantized, tmp_path / "encoder")
        model = Encoder()
        before = copy.deepcopy(model.state_dict())
        loaded = intaglio.load(tmp_path / "encoder", model=model)
        assert_same(list(model.state_dict().values()), list(before.values()))
        assert not any(isinstance(module, QuantizedModule) for module in model.modules())
        assert model.training
        ours = {p.data_ptr() for p in model.parameters()}
        assert ours.isdisjoint(p.data_ptr() for p in loaded.parameters())

    def test_hooks_are_those_of_the_given_model(self, tmp_path: Path) -> None:
        calls: list[str] = []
        model = nn.Sequential(nn.Linear(4, 4)).eval()
        quantized = intaglio.quantize_dynamic(model)
        quantized[0].register_forward_hook(lambda *_: calls.append("saved"))
        with pytest.warns(UserWarning, match="'0' has forward hooks"):
            intaglio.save(quantized, tmp_path / "hooked")
        model[0].register_forward_hook(lambda *_: calls.append("given"))
        intaglio.load(tmp_path / "hooked", model=model)(torch.randn(1, 4))
        assert calls == ["given"]

    def test_the_record_of_what_stayed_float(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Bilinear(2, 2, 2), nn.Linear(4, 4)).eval()
        quantized = intaglio.quantize_dynamic(model, {"0"})
        intaglio.save(quantized, tmp_path / "model")
        notes = [layer.note for layer in intaglio.summary(intaglio.load(tmp_path / "model")).layers]
        assert notes == [layer.note for layer in intaglio.summary(quantized).layers]
        assert "not asked for" in notes

    def test_the_random_state_is_left_alone(self, tmp_path: Path) -> None:
        quantized = intaglio.quantize_dynamic(Encoder().eval(), {nn.Linear})
        state = torch.get_rng_state()
        intaglio.save(quantized, tmp_path / "encoder")
        intaglio.load(tmp_path / "encoder")
        assert torch.equal(state, torch.get_rng_state())


class TestLoadedModels:
    @pytest.fixture
    def pair(self, tmp_path: Path) -> tuple[nn.Module, nn.Module]:
        quantized = intaglio.quantize_dynamic(Encoder().eval(), {nn.Linear})
        intaglio.save(quantized, tmp_path / "encoder")
        return quantized, intaglio.load(tmp_path / "encoder")

    def test_copy_and_pickle(self, pair: tuple[nn.Module, nn.Module]) -> None:
        quantized, loaded = pair
        buffer = io.BytesIO()
        torch.save(loaded, buffer)
        buffer.seek(0)
        for again in (copy.deepcopy(loaded), torch.load(buffer, weights_only=False)):
            assert_alike(again, quantized)

    def test_state_dict(self, pair: tuple[nn.Module, nn.Module]) -> None:
        _, loaded = pair
        other = intaglio.quantize_dynamic(Encoder().eval(), {nn.Linear})
        loaded.load_state_dict(other.state_dict())
        loaded.offset.copy_(other.offset)
        assert_alike(loaded, other)

    def test_compile_and_export(self, pair: tuple[nn.Module, nn.Module]) -> None:
        quantized, loaded = pair
        args = encoder_inputs(2, 5)
        compiled = torch.compile(loaded, backend="eager", fullgraph=True)
        assert_same(compiled(*args), quantized(*args))
        exported = torch.export.export(loaded, args)
        assert_same(exported.module()(*args), quantized(*args))


class TestTheFile:
    def test_it_is_a_safetensors_file(self, tmp_path: Path) -> None:
        quantized = intaglio.quantize_dynamic(VoiceEncoder().eval(), {"linear"})
        intaglio.save(quantized, tmp_path / "voice.safetensors")
        with safe_open(tmp_path / "voice.safetensors", "pt") as file:
            assert "intaglio" in file.metadata()
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert_same(
            [found[name] for name in sorted(found)], [v for _, v in sorted(quantized.state_dict().items())]
        )

    def test_it_holds_no_pickle_and_little_besides_the_weights(self, tmp_path: Path) -> None:
        quantized = intaglio.quantize_dynamic(nn.Sequential(nn.Linear(512, 512)).eval())
        file = tmp_path / "model.safetensors"
        described = intaglio.save(quantized, file)
        assert file.stat().st_size == described.file_bytes < 512 * 512 + 8 * 512 + 2000
        assert 4 * 512 * 513 / file.stat().st_size > 3.9

    def test_description(self, tmp_path: Path) -> None:
        quantized = intaglio.quantize_dynamic(Encoder().eval(), {nn.Linear})
        returned = intaglio.save(quantized, tmp_path / "encoder")
        described = intaglio.read_recipe(tmp_path / "encoder")
        assert described.to_dict() == returned.to_dict()
        found = described.to_dict()
        assert found["format_version"] == "1.0"
        assert {"name": "layers.0.q.weight", "dtype": "int8", "shape": [32, 32], "bytes": 1024} in found[
            "tensors"
        ]
        layer = next(m for m in found["modules"] if m["path"] == "layers.0.q")
        assert layer["kind"] == "dynamic_linear"
        assert layer["config"]["in_features"] == 32
        assert "12 quantized modules (dynamic_linear)" in str(described)

    def test_nothing_quantized_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(intaglio.ConversionError, match="nothing to save"):
            intaglio.save(nn.Linear(3, 3), tmp_path / "float")
        with pytest.raises(intaglio.ConversionError, match=r"nn\.Module"):
            intaglio.save({"a": 1}, tmp_path / "dict")  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())

    def test_tensors_that_no_file_can_hold(self, tmp_path: Path) -> None:
        model = intaglio.quantize_dynamic(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval(), {"0"})
        model[1].to("meta")
        with pytest.raises(intaglio.ConversionError, match=r"'1\.weight' has no data"):
            intaglio.save(model, tmp_path / "meta")
        model = intaglio.quantize_dynamic(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval(), {"0"})
        model.register_buffer("sparse", torch.eye(3).to_sparse())
        with pytest.raises(intaglio.ConversionError, match=r"'sparse' is a torch\.float32 tensor of layout"):
            intaglio.save(model, tmp_path / "sparse")
        assert not list(tmp_path.iterdir())
