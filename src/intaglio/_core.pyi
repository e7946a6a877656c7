"""Types of the C++ core; addresses are `Tensor.data_ptr()`."""

from collections.abc import Callable
from typing import Any

class Plan:
    """Kernel calls over one arena; every driver is a method `(label, *arguments)` that adds its call."""

    def __init__(self, arena_bytes: int, keeps: int) -> None: ...
    def __len__(self) -> int: ...
    def __getattr__(self, driver: str) -> Callable[..., None]: ...
    def run(self, bases: list[int], threads: int) -> None: ...
    def run_part(self, first: int, last: int, arena: int, bases: list[int], threads: int) -> None: ...
    def time_part(self, first: int, last: int, arena: int, bases: list[int], threads: int) -> list[float]: ...
    def take_arena(self) -> int: ...
    def give_arena(self, arena: int) -> None: ...
    def arenas(self) -> int: ...

def copy_strided(
    x: int,
    y: int,
    item_bytes: int,
    sizes: list[int],
    x_strides: list[int],
    y_strides: list[int],
    threads: int,
) -> None: ...
def fill_bytes(y: int, bytes: int, value: int, threads: int) -> None: ...
def run_rows(rows: int, k: int, **arguments: Any) -> None: ...
def run_attention(*arguments: Any, **named: Any) -> None: ...
def embed_rows(*arguments: Any, **named: Any) -> None: ...
def softmax_floats(
    x: int, x_stride: int, rows: int, cols: int, y: int, y_stride: int, threads: int
) -> None: ...
def combine_floats(*arguments: Any, **named: Any) -> None: ...
def mean_rows(*arguments: Any, **named: Any) -> None: ...
def sum_rows(*arguments: Any, **named: Any) -> None: ...
def select_floats(*arguments: Any, **named: Any) -> None: ...
def unit_rows(*arguments: Any, **named: Any) -> None: ...
def active_isa() -> str: ...
def force_isa(name: str) -> None: ...
def available_isas() -> list[str]: ...
def kernel_names() -> list[str]: ...
def release_free_memory() -> None: ...
def vector_lanes() -> int: ...
def measure_peak_int8(isa: str, seconds: float = 0.05) -> float: ...
def measure_peak_f32(isa: str, seconds: float = 0.05) -> float: ...
def measure_read_bandwidth(size: int, seconds: float = 0.05) -> float: ...
def packed_weight_bytes(n: int, k: int, panel_vectors: int = 0) -> int: ...
def pack_weight(
    weight: int, scale: int, bias: int, n: int, k: int, panel_vectors: int, packed: int
) -> None: ...
def unpack_weight(packed: int, weight: int, scale: int, bias: int) -> None: ...
def packed_shape(packed: int) -> tuple[int, int, str]: ...
def linear_dynamic(
    x: int,
    rows: int,
    k: int,
    packed: int,
    granularity: int,
    activation: int,
    lower: float,
    upper: float,
    y: int,
    threads: int,
) -> None: ...
def packed_panel(packed: int) -> int: ...
def linear_dynamic_panels(
    x: int,
    rows: int,
    k: int,
    packed: int,
    granularity: int,
    panel_begin: int,
    panel_end: int,
    y: int,
    threads: int,
) -> None: ...
def quantize_activations(
    x: int,
    rows: int,
    cols: int,
    granularity: int,
    q: int,
    q_stride: int,
    scale: int,
    zero_point: int,
    threads: int,
) -> None: ...
def gemm(
    a: int,
    a_stride: int,
    rows: int,
    packed: int,
    row_scale: int,
    row_zero_point: int,
    row_param_stride: int,
    addend: int,
    addend_stride: int,
    activation: int,
    lower: float,
    upper: float,
    output: int,
    output_inverse_scale: float,
    output_zero_point: int,
    c: int,
    c_stride: int,
) -> None: ...
def packed_half_bytes(n: int, k: int) -> int: ...
def pack_half_weight(weight: int, bias: int, n: int, k: int, packed: int) -> None: ...
def unpack_half_weight(packed: int, weight: int, bias: int) -> None: ...
def linear_half(x: int, rows: int, k: int, packed: int, addend: int, y: int, threads: int) -> None: ...
def packed_cell_bytes(kind: int, weight: int, input: int, hidden: int, projection: int) -> int: ...
def pack_cell(
    kind: int, weight: int, input: int, hidden: int, projection: int, plain: list[int], packed: int
) -> None: ...
def unpack_cell(packed: int, plain: list[int]) -> None: ...
def packed_cell_shape(packed: int) -> tuple[int, int, int, int, int, str]: ...
def run_recurrent(
    x: int,
    rows: int,
    steps: int,
    batch: int,
    batch_sizes: int,
    cells: list[int],
    directions: int,
    y: int,
    h: int,
    c: int,
    threads: int,
) -> None: ...
def packed_conv_bytes(spec: list[int]) -> int: ...
def pack_conv(spec: list[int], weight: int, scale: int, bias: int, packed: int) -> None: ...
def unpack_conv(packed: int, weight: int, scale: int, bias: int) -> None: ...
def packed_conv_spec(packed: int) -> tuple[list[int], str]: ...
def conv_dynamic(
    x: int,
    batch: int,
    channels: int,
    depth: int,
    height: int,
    width: int,
    x_channels_last: bool,
    packed: int,
    out_depth: int,
    out_height: int,
    out_width: int,
    y: int,
    y_channels_last: bool,
    threads: int,
) -> None: ...
def quantize_pixels(
    x: int,
    pixel_stride: int,
    channel_stride: int,
    count: int,
    channel_begin: int,
    channels: int,
    repeat: int,
    inverse_scale: float,
    zero_point: int,
    q: int,
    q_stride: int,
) -> None: ...
def gather_runs(
    image: int, start: list[int], run: list[int], run_bytes: int, a: int, a_stride: int
) -> None: ...
def transpose_rows(x: int, x_stride: int, rows: int, cols: int, y: int, y_stride: int) -> None: ...
def spread_taps(
    image: int,
    rows: int,
    row_bytes: int,
    positions: int,
    position_bytes: int,
    tap_bytes: int,
    spread: int,
    row_vectors: int,
) -> None: ...
def conv_depthwise(
    spread: int,
    offset: list[int],
    chunks: int,
    chunk_step: int,
    rows: int,
    row_step: int,
    columns: int,
    column_step: int,
    packed: int,
    panel: int,
    scale: float,
    zero_point: int,
    y: int,
    y_row_stride: int,
    y_stride: int,
) -> None: ...
def tap_group(packed: int) -> int: ...
def gemm_static(
    image: int,
    start: list[int],
    row_bytes: int,
    rows: int,
    run: list[int],
    run_bytes: int,
    input_zero_point: int,
    packed: int,
    multiplier: int,
    offset: int,
    zero_point: int,
    lower: int,
    upper: int,
    residual: int,
    residual_zero_point: int,
    residual_multiplier: float,
    c: int,
    place: list[int],
    c_stride: int,
) -> None: ...
def pack_depthwise(
    weight: int, channels: int, tap_rows: int, taps: int, stride: int, dilation: int, packed: int
) -> int: ...
def depthwise_static(
    channels: int,
    tap_rows: int,
    taps: int,
    stride: int,
    dilation: int,
    packed: int,
    source: list[int],
    row_offset: list[int],
    row_step: int,
    pixel_bytes: int,
    repeat: int,
    first: int,
    low: int,
    width: int,
    input_zero_point: int,
    rows: int,
    columns: int,
    multiplier: int,
    offset: int,
    zero_point: int,
    lower: int,
    upper: int,
    residual: int,
    residual_zero_point: int,
    residual_multiplier: float,
    y: int,
    y_row_bytes: int,
    y_pixel_bytes: int,
) -> None: ...
def pack_winograd(weight: int, outputs: int, inputs: int, packed: int) -> int: ...
def winograd_input(
    image: int, start: list[int], row_bytes: int, channels: int, v: int, plane_step: int
) -> None: ...
def winograd_multiply(
    v: int,
    plane_step: int,
    packed: int,
    outputs: int,
    inputs: int,
    panel_begin: int,
    panel_end: int,
    input_zero_point: int,
    multiplier: int,
    offset: int,
    zero_point: int,
    lower: int,
    upper: int,
    residual: int,
    residual_zero_point: int,
    residual_multiplier: float,
    y: int,
    place: list[tuple[int, int, int]],
    y_row_bytes: int,
    y_pixel_bytes: int,
) -> None: ...
def packed_static_conv_bytes(spec: list[int], weight: int, winograd: bool) -> int: ...
def pack_static_conv(spec: list[int], weight: int, winograd: bool, packed: int) -> None: ...
def unpack_static_conv(packed: int, weight: int) -> None: ...
def packed_static_conv_spec(packed: int) -> tuple[list[int], str]: ...
def static_panel_vectors(n: int) -> int: ...
def conv_static(
    x: int,
    batch: int,
    channels: int,
    depth: int,
    height: int,
    width: int,
    input_zero_point: int,
    packed: int,
    out_depth: int,
    out_height: int,
    out_width: int,
    outputs: int,
    multiplier: int,
    offset: int,
    zero_point: int,
    lower: int,
    upper: int,
    residual: int,
    residual_zero_point: int,
    residual_multiplier: float,
    y: int,
    threads: int,
    values: int = 0,
    planes: bool = True,
    scale: float = 1.0,
    input_lower: int = 0,
    input_upper: int = 255,
) -> None: ...
def linear_static(
    x: int,
    rows: int,
    k: int,
    input_zero_point: int,
    packed: int,
    outputs: int,
    multiplier: int,
    offset: int,
    zero_point: int,
    lower: int,
    upper: int,
    residual: int,
    residual_zero_point: int,
    residual_multiplier: float,
    y: int,
    threads: int,
) -> None: ...
def embedding_rows(
    table: int,
    table_rows: int,
    width: int,
    bits: int,
    indices: int,
    count: int,
    is_int64: bool,
    y: int,
    threads: int,
) -> None: ...
def embedding_bags(
    table: int,
    table_rows: int,
    width: int,
    bits: int,
    indices: int,
    count: int,
    is_int64: bool,
    offsets: int,
    offsets_count: int,
    offsets_int64: bool,
    include_last: bool,
    bags: int,
    weights: int,
    mode: int,
    padding_index: int,
    y: int,
    threads: int,
) -> None: ...
def packed_rows(packed: int, indices: int, count: int, is_int64: bool, y: int, threads: int) -> None: ...
def quantize_image(
    x: int,
    batch: int,
    channels: int,
    pixels: int,
    planes: bool,
    scale: float,
    zero_point: int,
    lower: int,
    upper: int,
    q: int,
    threads: int,
) -> None: ...
def dequantize_image(
    q: int,
    batch: int,
    channels: int,
    pixels: int,
    planes: bool,
    scale: float,
    zero_point: int,
    x: int,
    threads: int,
) -> None: ...
def cpu_permutes_bytes() -> bool: ...
def look_up_bytes(x: int, count: int, table: int, y: int, permutes_bytes: bool, threads: int) -> None: ...
def combine_pairs(
    op: int,
    a: int,
    b: int,
    groups: int,
    rows: int,
    cols: int,
    single: int,
    shared: bool,
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    scale: float,
    zero_point: int,
    lower: int,
    upper: int,
    y: int,
    threads: int,
) -> None: ...
def concatenate_rows(
    parts: list[int], tables: list[int], cols: list[int], rows: int, y: int, threads: int
) -> None: ...
def pool(
    x: int,
    batch: int,
    channels: int,
    axes: list[int],
    average: bool,
    count_padding: bool,
    divisor_override: int,
    zero_point: int,
    lower: int,
    upper: int,
    y: int,
    threads: int,
) -> None: ...
def matmul_static(
    a: int,
    b: int,
    batch: list[int],
    a_batch_strides: list[int],
    b_batch_strides: list[int],
    m: int,
    k: int,
    n: int,
    a_stride: int,
    k_stride: int,
    n_stride: int,
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    scale: float,
    zero_point: int,
    lower: int,
    upper: int,
    c: int,
    threads: int,
) -> None: ...
def normalize_rows(
    x: int,
    rows: int,
    cols: int,
    epsilon: float,
    multiplier: int,
    offset: int,
    zero_point: int,
    lower: int,
    upper: int,
    y: int,
    threads: int,
) -> None: ...
def normalize_groups(
    x: int,
    batch: int,
    pixels: int,
    channels: int,
    groups: int,
    epsilon: float,
    multiplier: int,
    offset: int,
    zero_point: int,
    lower: int,
    upper: int,
    y: int,
    threads: int,
) -> None: ...
def softmax_rows(
    x: int,
    rows: int,
    cols: int,
    table: int,
    planes: int,
    scale: float,
    zero_point: int,
    lower: int,
    upper: int,
    y: int,
    threads: int,
) -> None: ...
def resize(
    x: int,
    batch: int,
    channels: int,
    sizes: list[int],
    sources: list[int],
    blend: bool,
    lower: int,
    upper: int,
    y: int,
    threads: int,
) -> None: ...
def fake_quantize_values(
    x: int,
    count: int,
    scale: float,
    zero_point: int,
    quant_min: int,
    quant_max: int,
    low: float,
    high: float,
    y: int,
    mask: int,
    threads: int,
) -> None: ...
def fake_quantize_observed(
    x: int,
    count: int,
    min_val: int,
    max_val: int,
    scale: int,
    zero_point: int,
    averaging_constant: float,
    quant_min: int,
    quant_max: int,
    symmetric: bool,
    eps: float,
    low: float,
    high: float,
    y: int,
    mask: int,
    threads: int,
) -> bool: ...
def fake_quantize_weight(
    w: int, rows: int, cols: int, most: int, min_val: int, max_val: int, scale: int, y: int, threads: int
) -> int: ...
def fake_quantize_rows(
    w: int,
    rows: int,
    cols: int,
    scale: int,
    zero_point: int,
    quant_min: int,
    quant_max: int,
    y: int,
    mask: int,
    threads: int,
) -> None: ...
def apply_mask(grad: int, mask: int, count: int, grad_x: int, threads: int) -> None: ...
def learned_gradients(
    grad: int,
    x: int,
    rows: int,
    cols: int,
    scale: int,
    zero_point: int,
    quant_min: int,
    quant_max: int,
    low: float,
    high: float,
    grad_x: int,
    grad_scale: int,
    grad_zero_point: int,
    threads: int,
) -> None: ...
