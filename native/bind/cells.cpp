// The cell codec, and the channel DCT without cells.
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "bind.h"
#include "tensorpress/cells.h"
#include "tensorpress/channel_dct.h"

namespace {

using namespace tensorpress;
template <class T>
using Words = Whole<T, nb::c_contig, nb::device::cpu>;

// Rules in memory of its own: made once for a codec, used by many calls.
class OwnedCells : public Cells {
 public:
  OwnedCells(int zero, Words<std::uint8_t> symbol_of, Words<std::uint8_t> level_of, Words<std::int32_t> matrix, Words<std::uint8_t> keep,
             Words<std::uint32_t> forward, std::uint32_t offset, Words<std::int32_t> backward, Words<std::int32_t> shift, double lagrangian,
             std::uint32_t modes, bool zero_map, bool plane_codes, int width)
      : symbol_of_(copy(symbol_of)), level_of_(copy(level_of)), keep_(copy(keep)), matrix_(copy(matrix)), backward_(copy(backward)),
        shift_(copy(shift)), forward_(copy(forward)) {
    const int length = int(forward_.size());
    if (zero < 0 || zero > 255 || symbol_of_.size() != 256 || level_of_.size() != 256) throw std::invalid_argument("cell rules: zero point or level tables of the wrong size");
    if (length != 0 && length != 4 && length != 8 && length != 16 && length != 32) throw std::invalid_argument("cell rules: DCT length is not 0, 4, 8, 16 or 32");
    if (matrix_.size() != std::size_t(length) * length || backward_.size() != std::size_t(length) || shift_.size() != 3 * std::size_t(length) ||
        (length && keep_.empty()))
      throw std::invalid_argument("cell rules: DCT tables of the wrong size");
    const auto beyond = [](const std::vector<std::int32_t>& list, std::int32_t limit) {
      return std::any_of(list.begin(), list.end(), [&](std::int32_t v) { return v < -limit || v > limit; });
    };
    if (beyond(matrix_, 90) || beyond(backward_, 1 << 22) || beyond(shift_, 1 << 30)) throw std::invalid_argument("cell rules: DCT tables whose sums leave 32 bits");
    if (width < 0 || width > 8) throw std::invalid_argument("cell rules: width is not 0 to 8");
    rules_ = {zero,   symbol_of_.data(), level_of_.data(), length, matrix_.data(), keep_.data(), int(keep_.size()), forward_.data(),
              offset, backward_.data(),  shift_.data(),    lagrangian, modes, zero_map, plane_codes, width};
  }

 private:
  template <class T>
  static std::vector<T> copy(const Words<T>& array) {
    return {array.data(), array.data() + array.size()};
  }
  std::vector<std::uint8_t> symbol_of_, level_of_, keep_;
  std::vector<std::int32_t> matrix_, backward_, shift_;
  std::vector<std::uint32_t> forward_;
};

class OwnedChannelDct : public ChannelDct {
 public:
  OwnedChannelDct(int zero, Words<std::uint8_t> symbol_of, Words<std::uint8_t> level_of, Words<std::uint8_t> keep, Words<std::uint16_t> multiplier,
                  Words<std::uint16_t> offset, Words<std::int16_t> backward, int fraction)
      : keep_(keep.data(), keep.data() + keep.size()) {
    const std::size_t length = multiplier.size();
    if (zero < 0 || zero > 255 || symbol_of.size() != 256 || level_of.size() != 256) throw std::invalid_argument("channel DCT: zero point or level tables of the wrong size");
    if (length != 0 && length != 4 && length != 8 && length != 16 && length != 32) throw std::invalid_argument("channel DCT: length is not 0, 4, 8, 16 or 32");
    if (offset.size() != length || backward.size() != length || keep_.empty()) throw std::invalid_argument("channel DCT: tables of the wrong size");
    if (fraction < 0 || fraction > 4) throw std::invalid_argument("channel DCT: fraction is not 0 to 4");
    rules_.zero = zero, rules_.length = int(length), rules_.fraction = fraction;
    std::memcpy(rules_.symbol_of, symbol_of.data(), 256);
    std::memcpy(rules_.level_of, level_of.data(), 256);
    rules_.same = true;
    for (int i = 0; i < 256; ++i) rules_.same = rules_.same && rules_.symbol_of[i] == i && rules_.level_of[i] == i;
    std::copy_n(multiplier.data(), length, rules_.multiplier);
    std::copy_n(offset.data(), length, rules_.offset);
    std::copy_n(backward.data(), length, rules_.backward);
    rules_.keep = keep_.data(), rules_.keep_size = std::int64_t(keep_.size());
    rules_.keeps_all = std::count(keep_.begin(), keep_.end(), 0) == 0;
  }

 private:
  std::vector<std::uint8_t> keep_;
};

}  // namespace

void bind_cells(nb::module_& m) {
  nb::class_<OwnedCells, MapKernel>(m, "Cells")
      .def(nb::init<int, Words<std::uint8_t>, Words<std::uint8_t>, Words<std::int32_t>, Words<std::uint8_t>, Words<std::uint32_t>, std::uint32_t,
                    Words<std::int32_t>, Words<std::int32_t>, double, std::uint32_t, bool, bool, int>(),
           nb::arg("zero"), nb::arg("symbol_of"), nb::arg("level_of"), nb::arg("matrix"), nb::arg("keep"), nb::arg("forward"), nb::arg("offset"),
           nb::arg("backward"), nb::arg("shift"), nb::arg("lagrangian"), nb::arg("modes"), nb::arg("zero_map"), nb::arg("plane_codes"),
           nb::arg("width"));

  nb::class_<OwnedChannelDct, MapKernel>(m, "ChannelDct")
      .def(nb::init<int, Words<std::uint8_t>, Words<std::uint8_t>, Words<std::uint8_t>, Words<std::uint16_t>, Words<std::uint16_t>, Words<std::int16_t>, int>(),
           nb::arg("zero"), nb::arg("symbol_of"), nb::arg("level_of"), nb::arg("keep"), nb::arg("multiplier"), nb::arg("offset"), nb::arg("backward"),
           nb::arg("fraction"));

  m.def("count_modes", [](const Bytes& payload, std::size_t index_nbytes) {
    std::int64_t counts[4] = {};
    if (index_nbytes > payload.size()) throw std::invalid_argument("payload is shorter than its index");
    const Outcome outcome = count_modes(payload.data(), std::int64_t(payload.size()), index_nbytes, counts);
    if (outcome.fault != Fault::none) throw std::invalid_argument("cells do not end where the payload ends");
    return std::vector<std::int64_t>(counts, counts + 4);
  });
}
