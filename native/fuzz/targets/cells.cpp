// Cells of `dct_cm`, in the profiles `paper` and `extended`: every mode, width and mask.
#include "stripe.h"
#include "tensorpress/cells.h"
#include "tensorpress/cells_body.h"

using namespace fuzz;

namespace {

struct Rules {
  CellRules cells{};
  LevelTables levels;
  std::vector<std::int32_t> matrix, backward, shift;
  std::vector<std::uint32_t> forward;
  Bytes keep;
};

std::unique_ptr<Rules> rules_of(Input& in) {
  auto r = std::make_unique<Rules>();
  const int length = in.below(5) ? 4 << in.below(4) : 0;
  r->levels = level_tables(in);
  const double step = 1 + in.byte() / 4.0, dead_zone = in.byte() / 511.0;
  const bool wild = in.below(8) == 0;  // what hostile parameters may ask for, and the binding lets pass
  for (int k = 0; k < length; ++k)
    for (int n = 0; n < length; ++n) r->matrix.push_back(k ? int(std::lround(90.49 * std::cos((2 * n + 1) * k * 3.14159265358979 / (2 * length)))) : 64);
  const double norm = 64 * std::sqrt(length);
  for (int k = 0; k < length; ++k) {
    r->forward.push_back(wild ? in.number<std::uint32_t>() : std::uint32_t((1 << 20) / (norm * step)));
    r->backward.push_back(wild ? in.within<std::int32_t>(-(1 << 22), 1 << 22) : std::int32_t(step * (1 << 14) / norm));
  }
  for (int i = 0; i < 3 * length; ++i) r->shift.push_back(wild ? in.within<std::int32_t>(-(1 << 30), 1 << 30) : std::int32_t((in.byte() - 128) * step * 64 / norm));
  const int groups = 1 + in.below(in.endless() ? 3 : 16);
  for (int i = 0; i < groups * length; ++i) r->keep.push_back(std::uint8_t(in.below(4) != 0));
  r->cells = {r->levels.tables.zero, r->levels.tables.word_of, r->levels.tables.level_of, length, r->matrix.data(), r->keep.data(), int(r->keep.size()),
              r->forward.data(), std::uint32_t((1 << 20) * dead_zone), r->backward.data(), r->shift.data(), in.byte() / 8.0, std::uint32_t(in.below(16) | 2),
              in.below(2) != 0, in.below(2) != 0, in.below(2) ? in.below(9) : 0};
  return r;
}

}  // namespace

TARGET(in) {
  const auto bodies = BODIES(stripe_body, in);
  std::unique_ptr<Rules> own;
  const Rules& rules = kept<Rules>(in, own, rules_of);
  const Shape shape = shape_of(in, 1 << 12);
  stripe(in, shape, rules.cells, Cells(rules.cells), bodies, false);
}
