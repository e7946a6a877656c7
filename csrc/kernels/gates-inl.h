// The gates of LSTM, GRU and RNN cells, written once for kLanes hidden units (docs/numerics.md, "Gates").
//
// Where the gates' pre-activations come from is a parameter `Gates`: `of(g)` is gate g of these units,
// and of a GRU's n, `hidden_part()` and `input_part()` are the two terms. The kernels here take finished
// pre-activations; recurrent-inl.h takes them from int32 sums.
#pragma once

#include "exp2-inl.h"

namespace intaglio {
namespace {

// kLanes units of one row: their gates and their states.
template <class Gates>
struct Units {
  Gates gates;
  float* c;
  float* h;
  float* y;  // or nullptr
  int n;     // units that exist, of kLanes

  void put(F value) const {
    store_n(h, value, n);
    if (y != nullptr) store_n(y, value, n);
  }
};

struct Lstm {
  static constexpr int kGates = 4;
  // c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')
  template <class Gates>
  static void finish(const Units<Gates>& u) {
    const F one = set(1.0f);
    const F i = add(one, bounded_exp2(u.gates.of(0), kMinusLog2E));
    const F f = add(one, bounded_exp2(u.gates.of(1), kMinusLog2E));
    const F eg = bounded_exp2(u.gates.of(2), kMinusTwoLog2E);
    const F o = add(one, bounded_exp2(u.gates.of(3), kMinusLog2E));
    const F ig = mul(i, add(one, eg));
    const F c = div(fma(load_n(u.c, u.n), ig, mul(sub(one, eg), f)), mul(ig, f));
    store_n(u.c, c, u.n);
    const F ec = bounded_exp2(c, kMinusTwoLog2E);
    u.put(div(sub(one, ec), mul(add(one, ec), o)));
  }
};

struct Gru {
  static constexpr int kGates = 3;
  // n = tanh(n_x + sigmoid(r) n_h);  h' = (1 - sigmoid(z)) n + sigmoid(z) h
  template <class Gates>
  static void finish(const Units<Gates>& u) {
    const F one = set(1.0f);
    const F r = div(one, add(one, bounded_exp2(u.gates.of(0), kMinusLog2E)));
    const F ez = bounded_exp2(u.gates.of(1), kMinusLog2E);
    const F en = bounded_exp2(fma(r, u.gates.hidden_part(), u.gates.input_part()), kMinusTwoLog2E);
    const F n = add(one, en);
    u.put(div(fma(load_n(u.h, u.n), n, mul(sub(one, en), ez)), mul(n, add(one, ez))));
  }
};

struct RnnTanh {
  static constexpr int kGates = 1;
  template <class Gates>
  static void finish(const Units<Gates>& u) {
    const F one = set(1.0f), e = bounded_exp2(u.gates.of(0), kMinusTwoLog2E);
    u.put(div(sub(one, e), add(one, e)));
  }
};

struct RnnRelu {
  static constexpr int kGates = 1;
  template <class Gates>
  static void finish(const Units<Gates>& u) {
    u.put(max(set(0.0f), u.gates.of(0)));
  }
};

// Pre-activations that are already whole, in the order of the packed columns.
struct FinishedGates {
  const float* gates;
  const float* pre;

  F of(int g) const { return load(gates + g * kLanes); }
  F hidden_part() const { return of(2); }
  F input_part() const { return load(pre + 2 * kLanes); }
};

template <class Cell>
void apply_gates(const ApplyGatesArgs& args) {
  for (int64_t row = 0; row < args.m; ++row)
    for (int64_t unit = 0; unit < args.units; unit += kLanes) {
      const int64_t column = unit * Cell::kGates, state = row * args.units + unit, left = args.units - unit;
      Cell::finish(Units<FinishedGates>{
          {args.gates + row * args.gates_stride + column, args.pre + row * args.pre_stride + column},
          args.c == nullptr ? nullptr : args.c + state,
          args.h + state,
          args.y == nullptr ? nullptr : args.y + row * args.y_stride + unit,
          static_cast<int>(left < kLanes ? left : kLanes)});
    }
}

void lstm_gates(const ApplyGatesArgs& args) noexcept { apply_gates<Lstm>(args); }
void gru_gates(const ApplyGatesArgs& args) noexcept { apply_gates<Gru>(args); }
void rnn_gates(const ApplyGatesArgs& args) noexcept {
  args.relu ? apply_gates<RnnRelu>(args) : apply_gates<RnnTanh>(args);
}

}  // namespace
}  // namespace intaglio
