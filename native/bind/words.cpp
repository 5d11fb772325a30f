// Words: the front of the stepped codecs, and the packers of a stripe.
#include <cstring>
#include <stdexcept>

#include "bind.h"
#include "tensorpress/words.h"

namespace {

using namespace tensorpress;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatSink = Sink<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ByteTable = Whole<std::uint8_t, nb::shape<256>, nb::c_contig, nb::device::cpu>;
using FloatTable = nb::ndarray<const float, nb::shape<256>, nb::c_contig, nb::device::cpu>;
using Stripe = Whole<std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;     // (channels, rows, columns)
using StripeSink = Sink<std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void check_equal(std::size_t a, std::size_t b) {
  if (a != b) throw std::invalid_argument("the arrays differ in length");
}

void check_room(std::int64_t needed, const ByteSink& out) {
  if (std::int64_t(out.size()) < needed) throw std::invalid_argument("output is too small");
}

template <class Words>
std::int64_t column_length(const Words& words) {
  const std::uint64_t length = std::uint64_t(words.shape(1)) * words.shape(2);
  if (length >> 32) throw std::invalid_argument("a channel of a stripe is larger than 4 GiB");
  return std::int64_t(length);
}

template <class Words>
CellGrid grid_of(const Words& words, std::int64_t cell_channels, std::int64_t cell_columns, bool padded) {
  const CellGrid grid{std::int64_t(words.shape(0)), std::int64_t(words.shape(1)), std::int64_t(words.shape(2)), cell_channels, cell_columns, padded};
  if (cell_channels < 1 || cell_channels > 256 || cell_columns < 1 || cell_columns > 256 / cell_channels || grid.rows > 8)
    throw std::invalid_argument("a cell has at most 8 rows and 256 columns of them");
  return grid;
}

using Starts = Whole<std::uint8_t, nb::shape<16>, nb::c_contig, nb::device::cpu>;

Ranges ranges_of(const Starts& starts, const Starts& bits, const ByteTable& range_of) {
  Ranges ranges;
  std::memcpy(ranges.starts, starts.data(), 16);
  std::memcpy(ranges.bits, bits.data(), 16);
  std::memcpy(ranges.range_of, range_of.data(), 256);
  for (const std::uint8_t size : ranges.bits)
    if (size > 8) throw std::invalid_argument("an offset has more than 8 bits");
  for (const std::uint8_t number : ranges.range_of)
    if (number > 15) throw std::invalid_argument("there are 16 ranges");
  return ranges;
}

}  // namespace

void bind_words(nb::module_& m) {
  m.def("floats_to_words", [](const Floats& x, float reciprocal, int zero, const ByteTable& table, const ByteSink& words) {
    check_equal(x.size(), words.size());
    if (zero < 0 || zero > 255) throw std::invalid_argument("the zero point is not 0 to 255");
    return without_gil([&] { return floats_to_words(x.data(), std::int64_t(x.size()), reciprocal, zero, table.data(), words.data()); });
  });
  m.def("bytes_to_words", [](const Bytes& x, const ByteTable& table, const ByteSink& words) {
    check_equal(x.size(), words.size());
    without_gil([&] { bytes_to_words(x.data(), std::int64_t(x.size()), table.data(), words.data()); });
  });
  m.def("words_to_floats", [](const Bytes& words, const FloatTable& table, const FloatSink& x) {
    check_equal(x.size(), words.size());
    without_gil([&] { words_to_floats(words.data(), std::int64_t(words.size()), table.data(), x.data()); });
  });

  m.def("zero_runs_encode", [](const Bytes& words, const ByteSink& out) {
    check_room(zero_runs_capacity(std::int64_t(words.size())), out);
    return without_gil([&] { return zero_runs_encode(words.data(), std::int64_t(words.size()), out.data()); });
  });
  m.def("zero_runs_decode", [](const Bytes& data, const ByteSink& words) {
    return without_gil([&] { return zero_runs_decode(data.data(), std::int64_t(data.size()), std::int64_t(words.size()), words.data()); });
  });

  m.def("columns_encode", [](const Stripe& words, const ByteSink& out) {
    const std::int64_t columns = std::int64_t(words.shape(0)), length = column_length(words);
    check_room(columns_capacity(columns, length), out);
    return without_gil([&] { return columns_encode(words.data(), columns, length, out.data()); });
  });
  m.def("columns_decode", [](const Bytes& data, const StripeSink& words) {
    const std::int64_t length = column_length(words);
    return without_gil([&] { return columns_decode(data.data(), std::int64_t(data.size()), std::int64_t(words.shape(0)), length, words.data()); });
  });

  m.def("slots_encode", [](const Stripe& words, std::int64_t cell_channels, std::int64_t cell_columns, bool padded, const ByteSink& out) {
    const CellGrid grid = grid_of(words, cell_channels, cell_columns, padded);
    check_room(slots_capacity(grid), out);
    return without_gil([&] { return slots_encode(grid, words.data(), out.data()); });
  });
  m.def("slots_decode", [](const Bytes& data, std::int64_t cell_channels, std::int64_t cell_columns, bool padded, const StripeSink& words) {
    const CellGrid grid = grid_of(words, cell_channels, cell_columns, padded);
    return without_gil([&] { return slots_decode(grid, data.data(), std::int64_t(data.size()), words.data()); });
  });

  m.def("ranges_encode", [](const Starts& starts, const Starts& bits, const ByteTable& range_of, const Bytes& words, const ByteSink& numbers, const ByteSink& out) {
    const Ranges ranges = ranges_of(starts, bits, range_of);
    check_equal(words.size(), numbers.size());
    check_room(std::int64_t(words.size()) + 8, out);
    return without_gil([&] { return ranges_encode(ranges, words.data(), std::int64_t(words.size()), numbers.data(), out.data()); });
  });
  m.def("ranges_decode", [](const Starts& starts, const Starts& bits, const ByteTable& range_of, const Bytes& numbers, const Bytes& data, const ByteSink& words) {
    const Ranges ranges = ranges_of(starts, bits, range_of);
    check_equal(words.size(), numbers.size());
    for (std::size_t i = 0; i < numbers.size(); ++i)
      if (numbers.data()[i] > 15) throw std::invalid_argument("there are 16 ranges");
    return without_gil(
        [&] { return ranges_decode(ranges, numbers.data(), data.data(), std::int64_t(data.size()), std::int64_t(words.size()), words.data()); });
  });
}
