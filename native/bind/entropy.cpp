// The entropy coders: prepared tables as Python objects, arrays checked here, the GIL released around every kernel.
#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "bind.h"
#include "tensorpress/huffman.h"
#include "tensorpress/rans.h"

namespace {

using namespace tensorpress;

using In = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = Sink<nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using States = Sink<std::uint32_t, nb::shape<rans_lanes>, nb::c_contig, nb::device::cpu>;

void check_index(const nb::object& index, std::size_t count, std::size_t rows, In& view) {
  if (index.is_none()) return;
  if (!nb::try_cast(index, view, false)) throw nb::type_error("index must be a contiguous vector of uint8 or uint16, or None");
  if (view.shape(0) != count) throw nb::value_error("index and symbols differ in length");
  std::uint32_t top = 0;
  if (view.dtype() == nb::dtype<std::uint8_t>())
    for (std::size_t i = 0; i < count; ++i) top = std::max<std::uint32_t>(top, static_cast<const std::uint8_t*>(view.data())[i]);
  else if (view.dtype() == nb::dtype<std::uint16_t>())
    for (std::size_t i = 0; i < count; ++i) top = std::max<std::uint32_t>(top, static_cast<const std::uint16_t*>(view.data())[i]);
  else
    throw nb::type_error("index must be uint8 or uint16");
  if (count && top >= rows) throw nb::value_error("index names a row that the tables do not have");
}

// Calls f(pointer to symbols, pointer to index or null) with the types that the arrays have.
template <class Array, class F>
auto with_types(const Array& symbols, const nb::object& index, const In& rows, F f) {
  constexpr bool reading = std::is_same_v<Array, In>;
  const auto by_index = [&](auto* typed) {
    if (index.is_none()) return f(typed, static_cast<const std::uint8_t*>(nullptr));
    return rows.dtype() == nb::dtype<std::uint8_t>() ? f(typed, static_cast<const std::uint8_t*>(rows.data()))
                                                     : f(typed, static_cast<const std::uint16_t*>(rows.data()));
  };
  using Byte = std::conditional_t<reading, const std::uint8_t, std::uint8_t>;
  using Word = std::conditional_t<reading, const std::uint16_t, std::uint16_t>;
  if (symbols.dtype() == nb::dtype<std::uint8_t>()) return by_index(static_cast<Byte*>(symbols.data()));
  if (symbols.dtype() == nb::dtype<std::uint16_t>()) return by_index(static_cast<Word*>(symbols.data()));
  throw nb::type_error("symbols must be uint8 or uint16");
}

template <class Symbol>
void check_symbols(const Symbol* symbols, std::size_t count, std::size_t known) {
  std::uint32_t top = 0;
  for (std::size_t i = 0; i < count; ++i) top = std::max<std::uint32_t>(top, symbols[i]);
  if (count && top >= known) throw nb::value_error("a symbol lies beyond the tables");
}

template <class Symbol>
void check_width(const Symbol*, std::size_t known) {
  if (known - 1 > std::numeric_limits<Symbol>::max()) throw nb::value_error("the tables have more symbols than the array's type holds");
}

class RansTables {
 public:
  RansTables(nb::ndarray<const std::uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu> cdf, int bits) {
    const std::size_t rows = cdf.shape(0), symbols = cdf.shape(1) - 1;
    if (rows == 0 || cdf.shape(1) < 2 || bits < 10 || bits > 16) throw nb::value_error("CDF rows need two columns or more and 10 to 16 bits");
    steps_.resize(rows * symbols), spans_.resize(rows * symbols), slots_.resize(rows << bits);
    if (!rans_prepare(cdf.data(), rows, symbols, bits, steps_.data(), spans_.data(), slots_.data()))
      throw nb::value_error("a CDF row does not rise strictly from 0 to 2^bits");
    view_ = {bits, rows, symbols, steps_.data(), spans_.data(), slots_.data()};
  }
  RansTables(const RansTables&) = delete;  // the view points into this object

  std::size_t encode(In symbols, nb::object index, std::size_t first, States states, ByteSink out, std::size_t end) const {
    const std::size_t count = symbols.shape(0);
    In rows;
    check_index(index, count, view_.rows, rows);
    if (end > out.shape(0) || end / 2 < count) throw nb::value_error("the output has no room for two bytes a symbol");
    return with_types(symbols, index, rows, [&](auto* from, auto* which) {
      check_symbols(from, count, view_.symbols);
      return without_gil([&] { return rans_encode(view_, from, which, count, first, states.data(), out.data(), end); });
    });
  }

  // The byte after the last word taken; -1 where the data ends first.
  std::int64_t decode(Bytes data, std::size_t at, nb::object index, std::size_t first, States states, Out out) const {
    const std::size_t count = out.shape(0);
    In rows;
    check_index(index, count, view_.rows, rows);
    if (at > data.shape(0)) throw nb::value_error("the position lies beyond the data");
    for (std::size_t lane = 0; lane < rans_lanes; ++lane)
      if (states.data()[lane] < rans_low) throw nb::value_error("a state is below 2^16");
    return with_types(out, index, rows, [&](auto* to, auto* which) {
      check_width(to, view_.symbols);
      return without_gil([&] { return static_cast<std::int64_t>(rans_decode(view_, data.data(), data.shape(0), at, which, count, first, states.data(), to)); });
    });
  }

 private:
  std::vector<RansStep> steps_;
  std::vector<std::uint32_t> spans_;
  std::vector<std::uint16_t> slots_;
  RansView view_{};
};

class HuffmanCodes {
 public:
  explicit HuffmanCodes(nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu> lengths) {
    const std::size_t rows = lengths.shape(0), symbols = lengths.shape(1);
    if (rows == 0) throw nb::value_error("code lengths have no row");
    codes_.resize(rows * symbols), sorted_.resize(rows * symbols), quick_.resize(rows << huffman_quick);
    limits_.resize(rows * 16), places_.resize(rows * 16);
    if (!huffman_prepare(lengths.data(), rows, symbols, codes_.data(), quick_.data(), limits_.data(), places_.data(), sorted_.data()))
      throw nb::value_error("a row of code lengths is no complete code of at most 15 bits");
    view_ = {rows, symbols, codes_.data(), quick_.data(), limits_.data(), places_.data(), sorted_.data()};
  }
  HuffmanCodes(const HuffmanCodes&) = delete;  // the view points into this object

  std::size_t encode(In symbols, nb::object index, ByteSink out, std::size_t bit) const {
    const std::size_t count = symbols.shape(0);
    In rows;
    check_index(index, count, view_.rows, rows);
    if (bit / 8 > out.shape(0) || count > out.shape(0) || (bit + huffman_longest * count) / 8 + huffman_slack > out.shape(0)) throw nb::value_error("the output has no room for 15 bits a symbol");
    return with_types(symbols, index, rows, [&](auto* from, auto* which) {
      check_symbols(from, count, view_.symbols);
      return without_gil([&] { return huffman_encode(view_, from, which, count, out.data(), bit); });
    });
  }

  // The bit after the last code; -1 where the data ends first.
  std::int64_t decode(Bytes data, std::size_t bit, nb::object index, Out out) const {
    const std::size_t count = out.shape(0);
    In rows;
    check_index(index, count, view_.rows, rows);
    if (bit > 8 * data.shape(0)) throw nb::value_error("the position lies beyond the data");
    return with_types(out, index, rows, [&](auto* to, auto* which) {
      check_width(to, view_.symbols);
      return without_gil([&] { return static_cast<std::int64_t>(huffman_decode(view_, data.data(), data.shape(0), bit, which, count, to)); });
    });
  }

 private:
  std::vector<std::uint32_t> codes_, limits_;
  std::vector<std::uint64_t> quick_;
  std::vector<std::int32_t> places_;
  std::vector<std::uint16_t> sorted_;
  HuffmanView view_{};
};

}  // namespace

void bind_entropy(nb::module_& m) {
  nb::set_leak_warnings(false);  // tables that a global still holds when Python ends are no leak
  nb::class_<RansTables>(m, "RansTables", "CDF rows prepared for the rANS kernels.")
      .def(nb::init<nb::ndarray<const std::uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>, int>(), nb::arg("cdf").noconvert(),
           nb::arg("bits"))
      .def("encode", &RansTables::encode, nb::arg("symbols").noconvert(), nb::arg("index").none(), nb::arg("first"),
           nb::arg("states").noconvert(), nb::arg("out").noconvert(), nb::arg("end"))
      .def("decode", &RansTables::decode, nb::arg("data").noconvert(), nb::arg("at"), nb::arg("index").none(), nb::arg("first"),
           nb::arg("states").noconvert(), nb::arg("out").noconvert());
  nb::class_<HuffmanCodes>(m, "HuffmanCodes", "Code lengths prepared for the Huffman kernels.")
      .def(nb::init<nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>>(), nb::arg("lengths").noconvert())
      .def("encode", &HuffmanCodes::encode, nb::arg("symbols").noconvert(), nb::arg("index").none(), nb::arg("out").noconvert(),
           nb::arg("bit"))
      .def("decode", &HuffmanCodes::decode, nb::arg("data").noconvert(), nb::arg("bit"), nb::arg("index").none(),
           nb::arg("out").noconvert());
}
