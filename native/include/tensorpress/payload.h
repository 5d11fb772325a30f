// A payload around a kernel's stripes: head, stripe table with checks, stripes. FORMAT.md, section 3.
// A kernel says how one stripe is written and read; order, threads and checks are the same for all.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tensorpress/map.h"

namespace tensorpress {

enum class Fault : int {
  none,
  not_finite,     // at: flat index of the value
  output_small,
  header_cut,
  header_flags,   // at: the flags
  payload_cut,
  length_wrong,
  no_transform,
  section_cut,
  padding,
  rest,           // at: bytes after the last cell
  stripe_check,
};

// What stands in front of the stripes.
struct Index {
  int dtype, rank;  // code of the type
  std::int64_t shape[8];
  std::int64_t head_nbytes, stripes, stripes_nbytes;  // stripes_nbytes: all of them, as the table says
};
// False where a part is cut or out of range, or the sizes do not add up: core/payload.py says what is wrong.
bool read_index(const std::uint8_t* payload, std::int64_t nbytes, Index& index);

struct Outcome {
  Fault fault = Fault::none;
  std::int64_t nbytes = 0;  // written or read
  std::int64_t stripe = 0, cell = 0, at = 0;
};

constexpr std::int64_t output_slack = 64;  // a kernel may scribble so far past what it has written

class MapKernel {
 public:
  virtual ~MapKernel() = default;
  // Of the largest stripe, whatever the values.
  virtual std::int64_t max_stripe_nbytes(const MapView& map) const = 0;
  // Writes stripe `number` at out, where max_stripe_nbytes and output_slack bytes are free.
  virtual Outcome encode(const MapView& map, std::int64_t number, std::uint8_t* out) const = 0;
  // Reads a stripe whose check was right; that is no proof of good bytes.
  virtual Outcome decode(const std::uint8_t* data, std::int64_t nbytes, const MapView& map, std::int64_t number) const = 0;
};

// The stripe table of a payload; checks cover the head, the stripe's number and its bytes.
class PayloadTable {
 public:
  PayloadTable(const std::uint8_t* payload, std::size_t head_nbytes);
  std::int64_t nbytes_of(std::int64_t number) const;
  bool good(std::int64_t number, const std::uint8_t* stripe, std::size_t nbytes) const;
  void put(std::uint8_t* payload, std::int64_t number, const std::uint8_t* stripe, std::size_t nbytes) const;

 private:
  const std::uint8_t* table_;
  std::size_t head_nbytes_;
  std::uint32_t seed_;
};

std::int64_t max_payload_nbytes(const MapKernel& kernel, const MapView& map, std::size_t head_nbytes);  // slack included

// head: type and shape, copied in front, and the seed of every stripe check. What is written does not depend on `threads`.
Outcome encode_payload(const MapKernel& kernel, const MapView& map, const std::uint8_t* head, std::size_t head_nbytes, std::uint8_t* out,
                       std::int64_t capacity, int threads);

// payload: whole, with its head of head_nbytes. The outcome is that of the first stripe at fault.
Outcome decode_payload(const MapKernel& kernel, const std::uint8_t* payload, std::int64_t nbytes, std::size_t head_nbytes, const MapView& map,
                       int threads);

}  // namespace tensorpress
