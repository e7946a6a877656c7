"""Plans of recurrent layers, quantized embeddings and attention layers: layers that are quantized as a whole.

May import planner, images, floats, packing and errors.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

from intaglio import _core
from intaglio.errors import FileFormatError, InputError
from intaglio.runtime.array import Array, Quant
from intaglio.runtime.floats import attend, check_float
from intaglio.runtime.graph import Layer, map_values
from intaglio.runtime.images import dequantize, output_of
from intaglio.runtime.packing import MAX_K, aligned_bytes
from intaglio.runtime.planner import NotLowered, Planner, lower_layer

__all__: list[str] = []

_MODES = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
_WEIGHTS = ("int8", "float16", "mixed")
_PARTS = ("weight_ih", "weight_hh", "weight_hr")


# ---- Recurrent layers ------------------------------------------------------------------------------------


def _cells(planner: Planner, layer: Layer) -> list[Array]:
    """The packed cells of a layer, in torch's order."""
    config = layer.config
    ends = ("", "_reverse") if config["bidirectional"] else ("",)
    output = config["proj_size"] or config["hidden_size"]
    found = []
    for number in range(layer.count("num_layers")):
        width = config["input_size"] if number == 0 else output * len(ends)
        weight = config["weight_dtype"]
        weight = "int8" if weight == "mixed" and number > 0 else weight
        kind = (_MODES.index(config["mode"]), _WEIGHTS.index(weight))
        shape = (*kind, width, config["hidden_size"], config["proj_size"])
        for end in ends:
            suffix = f"_l{number}{end}"
            found.append(planner.packed(layer.packed(f"cell{suffix}", partial(_pack, layer, shape, suffix))))
    return found


def _pack(layer: Layer, shape: tuple[int, ...], suffix: str) -> Any:
    kind, weight, width, hidden, projection = shape
    if min(width, hidden) < 1 or projection < 0 or max(width, hidden, projection) > MAX_K:
        raise FileFormatError(f"{layer.where()}: no cell has the sizes {width}, {hidden}, {projection}")
    rows = (4, 3, 1, 1)[kind] * hidden
    shapes = {"weight_ih": (rows, width), "weight_hh": (rows, projection or hidden)}
    shapes |= {"weight_hr": (projection, hidden)} if projection else {}
    arrays: list[Any] = []
    for part in _PARTS:
        is_half = weight == 1 or (weight == 2 and part == "weight_ih")
        name, is_there = f"{part}{suffix}", part in shapes
        arrays.append(layer.array(name, shapes[part], "float16" if is_half else "int8") if is_there else None)
        scaled = is_there and not is_half
        arrays.append(layer.array(f"{name}_scale", shapes[part][:1]) if scaled else None)
    biases = (f"bias_ih{suffix}", f"bias_hh{suffix}")
    arrays += [layer.array(name, (rows,)) if layer.has(name) else None for name in biases]
    packed = aligned_bytes(_core.packed_cell_bytes(kind, weight, width, hidden, projection))
    addresses = [0 if a is None else a.ctypes.data for a in arrays]
    _core.pack_cell(kind, weight, width, hidden, projection, addresses, packed.ctypes.data)
    return packed


@lower_layer("dynamic_lstm", "dynamic_gru", "dynamic_rnn")
def _recurrent(planner: Planner, layer: Layer, input: Any, hx: Any = None) -> Any:
    if not isinstance(input, Array):
        raise NotLowered(f"its input is a {type(input).__name__}")
    check_float(input)
    config = layer.config
    if input.ndim not in (2, 3) or input.shape[-1] != config["input_size"] or input.shape[0] == 0:
        raise InputError(
            f"{layer.where()}: input has shape {input.shape}, but (steps, batch, "
            f"{config['input_size']}), its "
            "batch_first form, or one without a batch is needed"
        )
    for size in ("input_size", "hidden_size", "num_layers"):
        layer.count(size)
    layer.count("proj_size", 0)
    is_batched = input.ndim == 3
    turned = config["batch_first"] and is_batched
    x = input.unsqueeze(1) if not is_batched else input.swap(0, 1) if turned else input
    steps, batch, _ = x.shape
    directions = 2 if config["bidirectional"] else 1
    hidden, output = config["hidden_size"], config["proj_size"] or config["hidden_size"]
    is_lstm = config["mode"] == "LSTM"
    count = config["num_layers"] * directions
    widths = (output, hidden) if is_lstm else (output,)
    given = [None] * len(widths) if hx is None else list(hx) if is_lstm else [hx]
    states = [
        _state(planner, layer, s, (count, batch, w), is_batched) for s, w in zip(given, widths, strict=True)
    ]
    y = planner.new((steps, batch, directions * output))
    cells = _cells(planner, layer)
    gates = {"LSTM": 4, "GRU": 3}.get(config["mode"], 1)
    wide = config["input_size"] + (config["num_layers"] - 1) * output * directions
    planner.call(
        "run_recurrent",
        "y h c",
        work=steps * batch * directions * gates * hidden * (wide + config["num_layers"] * output),
        x=planner.contiguous(x),
        rows=steps * batch,
        steps=steps,
        batch=batch,
        batch_sizes=None,
        cells=cells,
        directions=directions,
        y=y,
        h=states[0],
        c=states[1] if is_lstm else None,
    )
    if not is_batched:
        y, states = y.squeeze([1]), [state.squeeze([1]) for state in states]
    y = y.swap(0, 1) if turned else y
    return y, tuple(states) if is_lstm else states[0]


def _state(planner: Planner, layer: Layer, state: Any, shape: tuple[int, ...], is_batched: bool) -> Array:
    """Memory that holds a first state and will hold the last one."""
    if state is None:
        zeros = planner.new(shape)
        planner.call("fill_bytes", "y", y=zeros, bytes=zeros.bytes, value=0)
        return zeros
    check_float(state)
    whole: Array = state if is_batched else state.unsqueeze(1)
    if whole.shape != shape:
        raise InputError(f"{layer.where()}: a state has shape {state.shape}, but {shape} is needed")
    return planner.copy(whole, planner.new(shape).strides)


# ---- Embeddings ------------------------------------------------------------------------------------------


def own_indices(planner: Planner, indices: Any) -> Array:
    """Indices in memory of the plan, so that nobody changes them between their check and their use."""
    if not isinstance(indices, Array) or indices.dtype not in ("int32", "int64"):
        raise NotLowered("its indices are neither int32 nor int64")
    return indices if indices.is_constant else planner.copy(indices, planner.new(indices.shape).strides)


@lower_layer("embedding")
def _embedding(planner: Planner, layer: Layer, input: Array) -> Array:
    table = getattr(getattr(layer, "module", None), "_buffers", {}).get("packed")
    if table is None or layer.config["dtype"] != "float32":
        raise NotLowered("its table is not packed here, or gives another type than float32")
    indices = own_indices(planner, input)
    width = layer.config["embedding_dim"]
    y = planner.new((*input.shape, width))
    planner.call(
        "embedding_rows",
        "y",
        table=planner.packed(table.numpy()),
        table_rows=layer.config["num_embeddings"],
        width=width,
        bits=layer.config["bits"],
        indices=indices,
        count=indices.size,
        is_int64=indices.dtype == "int64",
        y=y,
    )
    return y


# ---- Layers around others --------------------------------------------------------------------------------


@lower_layer("requantized")
def _requantized(planner: Planner, layer: Layer, *inputs: Any, **named: Any) -> Any:
    """A dynamic layer whose inputs are dequantized and whose first output is quantized."""

    def as_float(leaf: Any) -> Any:
        return dequantize(planner, leaf) if isinstance(leaf, Array) else leaf

    inner = layer.part("layer", layer.config["kind"], layer.config["config"])
    result = planner.run_part(inner, map_values(inputs, as_float), map_values(named, as_float))
    first, rest = (result[0], result[1:]) if isinstance(result, tuple) else (result, None)
    quantized = _quantize_plain(planner, first, output_of(layer))
    return quantized if rest is None else (quantized, *rest)


def _quantize_plain(planner: Planner, x: Array, output: Quant) -> Array:
    x = planner.dense(x)
    q = planner.new(x.shape, "uint8", output, x.strides)
    sizes = (x.shape[0], x.shape[1], prod(x.shape[2:])) if x.ndim >= 2 else (1, 1, x.size)
    planner.call(
        "quantize_image",
        "q",
        x=x,
        batch=sizes[0],
        channels=sizes[1],
        pixels=sizes[2],
        planes=False,
        scale=output.scale,
        zero_point=output.zero_point,
        lower=output.lower,
        upper=output.upper,
        q=q,
    )
    return q


@lower_layer("dynamic_multihead_attention")
def _multihead_attention(
    planner: Planner,
    layer: Layer,
    query: Array,
    key: Array,
    value: Array,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    config = layer.config
    parts = config["projections"]
    for x in (query, key, value):
        check_float(x)
    if need_weights or key_padding_mask is not None or config["bias_kv"] or config["add_zero_attn"]:
        raise NotLowered("it gives weights, has a padding mask, or keys of its own")
    if query.ndim != 3 or (attn_mask is not None and not is_causal and attn_mask.ndim != 2):
        raise NotLowered(f"it takes a query of shape {query.shape}")

    if attn_mask is not None and not is_causal and attn_mask.dtype == "bool":
        # Here True is what may not be seen, in scaled_dot_product_attention what may.
        if attn_mask.data is None:
            raise NotLowered("its mask is bool and known in each call alone")
        attn_mask = planner.constant(~attn_mask.data)

    def project(name: str, x: Array) -> Array:
        return planner.run_part(layer.part(name, parts[name]["kind"], parts[name]["config"]), (x,), {})  # type: ignore[no-any-return]

    if "in_proj" in parts:
        if query is not key or key is not value:
            raise NotLowered("its packed projections take different inputs")
        whole = project("in_proj", query)
        width = whole.shape[-1] // 3
        q, k, v = (whole.slice(-1, slice(i * width, (i + 1) * width)) for i in range(3))
    else:
        q, k, v = project("q_proj", query), project("k_proj", key), project("v_proj", value)
    heads = layer.count("num_heads")
    if q.shape[-1] % heads or k.shape[-1] % heads or v.shape[-1] % heads:
        raise FileFormatError(f"{layer.where()}: {heads} heads do not divide its width")

    def split(x: Array) -> Array:
        """`(N, heads, T, D)` of `(N, T, E)`, or of `(T, N, E)`."""
        first, second, width = x.shape
        step = x.strides[2]
        apart = x.view(
            (first, second, heads, width // heads), (*x.strides[:2], step * (width // heads), step)
        )
        return apart.permute((0, 2, 1, 3) if config["batch_first"] else (1, 2, 0, 3))

    mixed = attend(planner, split(q), split(k), split(v), None if is_causal else attn_mask, is_causal)
    order = (0, 2, 1, 3) if config["batch_first"] else (2, 0, 1, 3)
    joined = mixed.permute(order)
    joined = planner.reshape(joined, (*joined.shape[:2], joined.shape[2] * joined.shape[3]))
    return project("out_proj", joined), None
