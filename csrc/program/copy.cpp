// Strided copies: axes that lie in a row are one, and the last of them is the inner loop.
#include "copy.h"

#include <cstring>
#include <stdexcept>

#include "parallel.h"

namespace intaglio {
namespace {

constexpr int64_t kSmallestParallelBytes = 1 << 17;

struct Axis {
  int64_t size, x, y;
};

// Axes of more than one value, outermost in y first; those that both sides walk in one go are merged.
std::vector<Axis> axes_of(const CopyCall& call) {
  std::vector<Axis> axes;
  for (size_t a = 0; a < call.sizes.size(); ++a)
    if (call.sizes[a] != 1) axes.push_back({call.sizes[a], call.x_strides[a], call.y_strides[a]});
  std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.y > b.y; });
  std::vector<Axis> merged;
  for (const Axis& axis : axes) {
    if (!merged.empty() && merged.back().x == axis.x * axis.size && merged.back().y == axis.y * axis.size)
      merged.back() = {merged.back().size * axis.size, axis.x, axis.y};
    else
      merged.push_back(axis);
  }
  if (merged.empty()) merged.push_back({1, call.item_bytes, call.item_bytes});
  return merged;
}

template <class Item>
void copy_items(const uint8_t* x, uint8_t* y, const Axis& axis) {
  for (int64_t i = 0; i < axis.size; ++i) {
    Item item;
    std::memcpy(&item, x + i * axis.x, sizeof item);
    std::memcpy(y + i * axis.y, &item, sizeof item);
  }
}

void copy_run(const uint8_t* x, uint8_t* y, const Axis& axis, int64_t item_bytes) {
  struct Sixteen {
    uint64_t parts[2];
  };
  if (axis.x == item_bytes && axis.y == item_bytes)
    std::memcpy(y, x, static_cast<size_t>(axis.size * item_bytes));
  else if (item_bytes == 1)
    copy_items<uint8_t>(x, y, axis);
  else if (item_bytes == 2)
    copy_items<uint16_t>(x, y, axis);
  else if (item_bytes == 4)
    copy_items<uint32_t>(x, y, axis);
  else if (item_bytes == 8)
    copy_items<uint64_t>(x, y, axis);
  else
    copy_items<Sixteen>(x, y, axis);
}

}  // namespace

void copy_strided(const CopyCall& call) {
  const int64_t item = call.item_bytes;
  if (item != 1 && item != 2 && item != 4 && item != 8 && item != 16)
    throw std::invalid_argument("no type has items of so many bytes");
  if (call.sizes.size() != call.x_strides.size() || call.sizes.size() != call.y_strides.size())
    throw std::invalid_argument("a copy has a size and two strides for each axis");
  const std::vector<Axis> axes = axes_of(call);
  int64_t runs = 1;
  for (size_t a = 0; a + 1 < axes.size(); ++a) runs *= axes[a].size;
  const Axis& inner = axes.back();
  const int threads = runs * inner.size * item < kSmallestParallelBytes ? 1 : call.threads;
  run_parallel(threads, [&](int thread, int count) {
    const Share share = share_of(runs, 1, thread, count);
    for (int64_t run = share.begin; run < share.end; ++run) {
      const uint8_t* x = call.x;
      uint8_t* y = call.y;
      int64_t rest = run;
      for (size_t a = axes.size() - 1; a-- > 0; rest /= axes[a].size) {
        x += rest % axes[a].size * axes[a].x;
        y += rest % axes[a].size * axes[a].y;
      }
      copy_run(x, y, inner, item);
    }
  });
}

void fill_bytes(uint8_t* y, int64_t count, uint8_t value) {
  std::memset(y, value, static_cast<size_t>(count));
}

}  // namespace intaglio
