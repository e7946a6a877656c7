// Functions of one float32 value, for kLanes values at once (docs/numerics.md, "Float operations of a
// Program").
#pragma once

#include "exp2-inl.h"

namespace intaglio {
namespace {

struct Identity {
  F operator()(F x) const { return x; }
};
struct Relu {
  F operator()(F x) const { return max(set(0.0f), x); }
};
struct Clamp {
  F lower, upper;
  F operator()(F x) const { return min(upper, max(lower, x)); }
};

// x Phi(x) = max(x, 0) - |x| Phi(-|x|), and Phi(-|x|) is a power of two whose exponent is a polynomial of
// degree 6 in -|x|, fitted so that the error of the product is smallest: 6e-8. From -12 on the product is
// nothing.
struct Gelu {
  F operator()(F x) const {
    const F a = max(set(-12.0f), minus_abs(x));
    F p = set(kC6);
    p = fma(p, a, set(kC5));
    p = fma(p, a, set(kC4));
    p = fma(p, a, set(kC3));
    p = fma(p, a, set(kC2));
    p = fma(p, a, set(kC1));
    p = fma(p, a, set(kC0));
    return fma(a, exp2(p), max(set(0.0f), x));
  }
  static constexpr float kC0 = -9.99993061e-01f, kC1 = 1.15120170e+00f, kC2 = -4.58770975e-01f,
                         kC3 = 5.34121028e-02f, kC4 = 8.08071570e-03f, kC5 = 7.69219466e-04f,
                         kC6 = 3.30927898e-05f;
};

// x sigmoid(z) where E = 2^(-z log2 e).
inline F gate(F x, F e) { return div(x, add(set(1.0f), e)); }

struct GeluTanh {
  F operator()(F x) const {
    // 2 sqrt(2 / pi) (x + 0.044715 x^3)
    const F z = mul(x, fma(mul(x, x), set(0x1.2444f2p-4f), set(0x1.988454p+0f)));
    return gate(x, bounded_exp2(z, kMinusLog2E));
  }
};
struct QuickGelu {
  F operator()(F x) const { return gate(x, bounded_exp2(mul(x, set(1.702f)), kMinusLog2E)); }
};
struct Silu {
  F operator()(F x) const { return gate(x, bounded_exp2(x, kMinusLog2E)); }
};
struct Sigmoid {
  F operator()(F x) const { return gate(set(1.0f), bounded_exp2(x, kMinusLog2E)); }
};
struct Tanh {
  F operator()(F x) const {
    const F one = set(1.0f), e = bounded_exp2(x, kMinusTwoLog2E);
    return div(sub(one, e), add(one, e));
  }
};
struct Hardsigmoid {
  F operator()(F x) const {
    return mul(min(set(6.0f), max(set(0.0f), add(x, set(3.0f)))), set(0x1.555556p-3f));
  }
};
struct Hardswish {
  F operator()(F x) const { return mul(x, Hardsigmoid{}(x)); }
};
struct LeakyRelu {
  F slope;
  F operator()(F x) const { return fma(slope, min(set(0.0f), x), max(set(0.0f), x)); }
};

// body(the function's object): the switch stands outside of the loop.
template <class Body>
inline void with_function(Function function, float lower, float upper, const Body& body) {
  switch (function) {
    case Function::kNone:
      return body(Identity{});
    case Function::kRelu:
      return body(Relu{});
    case Function::kClamp:
      return body(Clamp{set(lower), set(upper)});
    case Function::kGelu:
      return body(Gelu{});
    case Function::kGeluTanh:
      return body(GeluTanh{});
    case Function::kQuickGelu:
      return body(QuickGelu{});
    case Function::kSilu:
      return body(Silu{});
    case Function::kSigmoid:
      return body(Sigmoid{});
    case Function::kTanh:
      return body(Tanh{});
    case Function::kHardswish:
      return body(Hardswish{});
    case Function::kHardsigmoid:
      return body(Hardsigmoid{});
    case Function::kLeakyRelu:
      return body(LeakyRelu{set(lower)});
  }
}

}  // namespace
}  // namespace intaglio
