// How threads share the rows and panels of a static GEMM.
#pragma once

#include "parallel.h"

namespace intaglio {

constexpr int64_t kRowGrain = 24;  // a multiple of the tiles' heights

// Panels of a packed weight: `count` of `width` columns each, but for the last.
struct PanelWidths {
  int64_t count, width, last;
  int64_t columns() const { return (count - 1) * width + last; }
};

// body(rows, panels) for up to three rectangles of rows x panels that fall to `thread`.
//
// Rows are shared where there are enough of them for each thread to repay reading all of the weights;
// otherwise panels are, and the rows of a panel that lies between two threads.
template <class Body>
void for_each_tile_share(int64_t rows, const PanelWidths& panels, int thread, int threads, const Body& body) {
  constexpr int64_t kSmallestRowShare = 48, kFineGrain = 8;
  if (threads == 1 || rows >= kSmallestRowShare * threads) {
    body(share_of(rows, kRowGrain, thread, threads), Share{0, panels.count});
    return;
  }
  // Grains of rows, panel by panel, that lie before a part of all columns.
  const int64_t grains = (rows + kFineGrain - 1) / kFineGrain;
  const auto before = [&](int part) {
    const int64_t columns = grains * panels.columns() * part / threads;
    const int64_t panel = std::min(columns / (grains * panels.width), panels.count - 1);
    const int64_t width = panel + 1 < panels.count ? panels.width : panels.last;
    return panel * grains + (columns - panel * grains * panels.width) / width;
  };
  const int64_t end = before(thread + 1);
  for (int64_t at = before(thread); at < end;) {
    const int64_t panel = at / grains, first = at % grains;
    const int64_t whole = first == 0 ? (end - at) / grains : 0;
    const int64_t last = whole > 0 ? grains : std::min(grains, first + end - at);
    body(Share{first * kFineGrain, std::min(rows, last * kFineGrain)},
         Share{panel, panel + std::max<int64_t>(whole, 1)});
    at += whole > 0 ? whole * grains : last - first;
  }
}

}  // namespace intaglio
