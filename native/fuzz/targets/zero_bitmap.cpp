// The zero bitmap: stripes of a map, and words of 1, 2, 4 and 8 bytes.
#include "stripe.h"

using namespace fuzz;

namespace {

void words(Input& in) {
  const int word_nbytes = 1 << in.below(4);
  const std::int64_t count = in.within<std::uint16_t>(0, 300);
  const Bytes data = in.rest();
  Bytes found(std::size_t(count * word_nbytes));
  if (!zero_bitmap_decode(begin_of(data), std::int64_t(data.size()), count, word_nbytes, begin_of(found))) return;
  Bytes out(std::size_t((count + 7) / 8 + (count + 1) * word_nbytes)), again(found.size(), 0xA5);
  out.resize(std::size_t(zero_bitmap_encode(begin_of(found), count, word_nbytes, begin_of(out))));
  must(zero_bitmap_decode(begin_of(out), std::int64_t(out.size()), count, word_nbytes, begin_of(again)) && again == found, "words are not encoded to themselves");
}

}  // namespace

TARGET(in) {
  if (in.byte() % 4 == 3) return words(in);
  const auto bodies = BODIES(zero_bitmap_body, in);
  const LevelTables levels = level_tables(in);
  const Shape shape = shape_of(in, 1 << 12);
  stripe(in, shape, levels.tables, ZeroBitmap(levels.tables), bodies, levels.lossless);
}
