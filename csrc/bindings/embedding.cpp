// Embedding lookups and bags.
#include "../program/embedding.h"

#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_embedding(Bindings& b) {
  b.driver(
      "embedding_rows",
      [](Address table, int64_t table_rows, int64_t width, int bits, Address indices, int64_t count,
         bool is_int64, Address y, Threads threads) {
        look_up_rows({pointer<const uint8_t>(table), table_rows, width, bits},
                     {pointer<const void>(indices), count, is_int64}, pointer<float>(y), threads);
      },
      "table"_a, "table_rows"_a, "width"_a, "bits"_a, "indices"_a, "count"_a, "is_int64"_a, "y"_a);
  b.driver(
      "embedding_bags",
      [](Address table, int64_t table_rows, int64_t width, int bits, Address indices, int64_t count,
         bool is_int64, Address offsets, int64_t offsets_count, bool offsets_int64, bool include_last,
         int64_t bags, Address weights, int mode, int64_t padding_index, Address y, Threads threads) {
        reduce_bags({{pointer<const uint8_t>(table), table_rows, width, bits},
                     {pointer<const void>(indices), count, is_int64},
                     {pointer<const void>(offsets), offsets_count, offsets_int64},
                     include_last,
                     bags,
                     pointer<const float>(weights),
                     static_cast<BagMode>(mode),
                     padding_index,
                     pointer<float>(y),
                     threads});
      },
      "table"_a, "table_rows"_a, "width"_a, "bits"_a, "indices"_a, "count"_a, "is_int64"_a, "offsets"_a,
      "offsets_count"_a, "offsets_int64"_a, "include_last"_a, "bags"_a, "weights"_a, "mode"_a,
      "padding_index"_a, "y"_a);
  b.driver(
      "packed_rows",
      [](Address packed, Address indices, int64_t count, bool is_int64, Address y, Threads threads) {
        look_up_packed_rows(pointer<const uint8_t>(packed), {pointer<const void>(indices), count, is_int64},
                            pointer<float>(y), threads);
      },
      "packed"_a, "indices"_a, "count"_a, "is_int64"_a, "y"_a);
}

}  // namespace intaglio
