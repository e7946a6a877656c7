// Winograd's form of the static convolution: which tiles and panels each thread computes.
#include <algorithm>

#include "conv_static_form.h"
#include "parallel.h"

namespace intaglio {
namespace {

constexpr int64_t kTile = 4;  // outputs of a tile along each axis
// Transformed pixels of a block of tiles: they stay in L2 beside a panel of weights and its products. Blocks
// are not so small that reading all of the weights again costs more.
constexpr int64_t kBlockBytes = 144 * 1024;
constexpr int64_t kFewestBlockTiles = 28;
// With fewer tiles than this for each thread, threads take panels instead.
constexpr int64_t kSmallestTileShare = 14;
// Images that are copied together.
constexpr int64_t kGroupBytes = 1 << 20;
// Products that Winograd's form executes (at half the rate) for one of the direct form; above, it is slower.
constexpr double kMostWork = 0.7;
constexpr int64_t kFewestTiles = 12;

int64_t tiles_of(int64_t outputs) { return (outputs + kTile - 1) / kTile; }

class StaticWinograd : public StaticConvForm {
 public:
  explicit StaticWinograd(const StaticConvShape& shape) : StaticConvForm(shape) {
    high_ = tiles_of(g_.output[1]);
    wide_ = tiles_of(g_.output[2]);
    inputs_ = packed_.spec().in_channels;
    outputs_ = packed_.spec().out_channels;
    panels_ = outputs_ / (2 * kernels_.lanes);
    most_ = std::max(kFewestBlockTiles, kBlockBytes / (2 * kWinogradPlanes * inputs_));
    most_ = std::min(most_, (tiles(shape.batch) + 1) / 2 * 2);
    // A little more than the tiles: a power of two would send all planes of a tile to a few sets of L1.
    plane_step_ = (most_ * inputs_ + 31) / 32 * 32 + 32;
    together_ = std::clamp<int64_t>(kGroupBytes / g_.sample_bytes, 1, shape.batch);
  }

  int64_t scratch_bytes(int threads) const override { return image_bytes() + workspace_bytes() * threads; }

  void run(const StaticOperands& operands, uint8_t* scratch, int threads) const override {
    for (int64_t first = 0; first < shape_.batch; first += together_) {
      const int64_t samples = std::min(together_, shape_.batch - first);
      copy_bordered(operands, first, samples, threads, scratch);
      run_samples(operands, first, samples, scratch, scratch + image_bytes(), threads);
    }
  }

 private:
  int64_t tiles(int64_t samples) const { return samples * g_.output[0] * high_ * wide_; }
  // The last tiles read beyond the border, and drop what comes of it.
  int64_t slack_bytes() const { return kTile * g_.row_bytes + 64; }
  int64_t image_bytes() const { return aligned_size(together_ * g_.sample_bytes + slack_bytes()); }
  int64_t workspace_bytes() const {
    return aligned_size(2 * kWinogradPlanes * plane_step_) + aligned_size(most_ * 8) +
           aligned_size(most_ * static_cast<int64_t>(sizeof(WinogradPlace))) +
           aligned_size(kernels_.winograd_scratch_bytes());
  }

  // Some samples, whose bordered images are `image`.
  void run_samples(const StaticOperands& operands, int64_t first, int64_t samples, const uint8_t* image,
                   uint8_t* memory, int threads) const {
    const int64_t total = tiles(samples);
    if (threads > 1 && total < kSmallestTileShare * threads) {
      run_by_panels(operands, first, total, image, memory, threads);
      return;
    }
    run_parallel(threads, [&](int thread, int count) {
      const Workspace work = workspace(memory, thread);
      const Share share = share_of(total, 1, thread, count);
      const int64_t blocks = (share.end - share.begin + most_ - 1) / most_;
      for (int64_t b = 0; b < blocks; ++b) {
        const Share part =
            share_of(share.end - share.begin, 1, static_cast<int>(b), static_cast<int>(blocks));
        const Share block{share.begin + part.begin, share.begin + part.end};
        transform(block, 0, image, work);
        multiply(operands, first, block, {0, panels_}, work);
      }
    });
  }

  struct Workspace {
    int16_t* v;
    int64_t* start;
    WinogradPlace* place;
    uint8_t* products;
  };

  Workspace workspace(uint8_t* memory, int thread) const {
    uint8_t* at = memory + thread * workspace_bytes();
    auto* v = reinterpret_cast<int16_t*>(at);
    auto* start = reinterpret_cast<int64_t*>(at += aligned_size(2 * kWinogradPlanes * plane_step_));
    auto* place = reinterpret_cast<WinogradPlace*>(at += aligned_size(most_ * 8));
    return {v, start, place, at + aligned_size(most_ * static_cast<int64_t>(sizeof(WinogradPlace)))};
  }

  // All threads transform, each its tiles; then each multiplies its panels, with the first one's pixels.
  void run_by_panels(const StaticOperands& operands, int64_t first, int64_t total, const uint8_t* image,
                     uint8_t* memory, int threads) const {
    for (int64_t begin = 0; begin < total; begin += most_) {
      const Share block{begin, std::min(total, begin + most_)};
      const int16_t* const v = workspace(memory, 0).v;
      run_parallel(threads, [&](int thread, int count) {
        Workspace work = workspace(memory, thread);
        const Share part = share_of(block.end - block.begin, 1, thread, count);
        work.v = const_cast<int16_t*>(v);
        transform({begin + part.begin, begin + part.end}, part.begin, image, work);
      });
      run_parallel(threads, [&](int thread, int count) {
        Workspace work = workspace(memory, thread);
        work.v = const_cast<int16_t*>(v);
        multiply(operands, first, block, share_of(panels_, 1, thread, count), work);
      });
    }
  }

  // The pixels of `block`, the first one as tile `to` of the workspace.
  void transform(Share block, int64_t to, const uint8_t* image, const Workspace& work) const {
    const int64_t count = block.end - block.begin;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t tile = block.begin + i, row = tile / wide_ % high_, plane = tile / wide_ / high_;
      work.start[i] =
          plane * g_.plane_bytes + row * kTile * g_.row_bytes + tile % wide_ * kTile * g_.pixel_bytes;
    }
    kernels_.winograd_input(
        {image, work.start, count, g_.row_bytes, inputs_, work.v + to * inputs_, plane_step_});
  }

  void multiply(const StaticOperands& operands, int64_t first, Share block, Share panels,
                const Workspace& work) const {
    const int64_t count = block.end - block.begin;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t tile = block.begin + i, y = tile / wide_ % high_ * kTile, x = tile % wide_ * kTile;
      const int64_t plane = first * g_.output[0] + tile / wide_ / high_;
      work.place[i] = {((plane * g_.output[1] + y) * g_.output[2] + x) * outputs_,
                       std::min(kTile, g_.output[1] - y), std::min(kTile, g_.output[2] - x)};
    }
    kernels_.winograd_multiply({work.v, plane_step_, count, packed_.winograd(), outputs_, inputs_,
                                panels.begin, panels.end, shape_.zero_point, requantize_to(operands),
                                operands.y, work.place, g_.output[2] * outputs_, outputs_, work.products});
  }

  int64_t high_, wide_, inputs_, outputs_, panels_, most_, plane_step_;
  int64_t together_;  // samples whose images are copied together
};

}  // namespace

bool prefers_winograd(const StaticConvShape& shape, const PackedStaticConv& packed) {
  if (packed.winograd() == nullptr) return false;
  const int64_t tiles = tiles_of(shape.output[1]) * tiles_of(shape.output[2]);
  const double executed = static_cast<double>(2 * kWinogradPlanes * tiles);
  return executed <= kMostWork * static_cast<double>(9 * shape.output[1] * shape.output[2]) &&
         tiles * shape.batch * shape.output[0] >= kFewestTiles;
}

std::unique_ptr<const StaticConvForm> make_static_winograd(const StaticConvShape& shape) {
  return std::make_unique<StaticWinograd>(shape);
}

}  // namespace intaglio
