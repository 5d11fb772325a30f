// Cells of words in groups of 16, of the codec `slots`: packed, or each in its slot.
#include "packed.h"
#include "tensorpress/words.h"

using namespace fuzz;
using namespace tensorpress;

TARGET(in) {
  CellGrid grid{};
  const int kind = in.byte();
  grid.padded = kind & 1, grid.cell_channels = kind & 2 ? 16 : 32, grid.cell_columns = kind & 2 ? 16 : 8;
  if (kind & 4) grid.cell_channels = 1 + in.below(16), grid.cell_columns = 1 + in.below(16);
  grid.rows = in.below(9), grid.columns = in.below(24), grid.channels = in.within<std::uint16_t>(0, std::max<std::int64_t>(1200 / (grid.rows * grid.columns + 1), 1));
  packed(
      in, std::size_t(grid.channels * grid.rows * grid.columns),
      [&](const Bytes& data, Bytes& words) { return slots_decode(grid, begin_of(data), std::int64_t(data.size()), begin_of(words)) == words_fine; },
      [&](const Bytes& words) {
        Bytes out(std::size_t(slots_capacity(grid)));
        out.resize(std::size_t(slots_encode(grid, begin_of(words), begin_of(out))));
        return out;
      });
}
