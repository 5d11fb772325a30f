// Payloads and frames whose checks are right, or wrong by one byte, which must be seen.
#include "stripe.h"
#include "tensorpress/frame.h"
#include "tensorpress/rans_lanes.h"

using namespace fuzz;

namespace {

const MapKernel& kernel_of(int number) {
  static const ZeroBitmap words = [] {
    ByteTables t{0, {}, {}, true};
    for (int i = 0; i < 256; ++i) t.word_of[i] = t.level_of[i] = std::uint8_t(i);
    return ZeroBitmap(t);
  }();
  static const LanedRans lanes = [] {
    LaneTables t{};
    t.bytes = {0, {}, {}, true};
    for (int i = 0; i < 256; ++i) t.bytes.word_of[i] = t.bytes.level_of[i] = std::uint8_t(i);
    std::vector<std::uint32_t> frequencies(256, 1);
    frequencies[0] = 1024, frequencies[1] = 512, frequencies[2] = 512 - 253;
    must(lane_tables(frequencies.data(), 256, 0, 11, t), "lane tables are refused");
    return LanedRans(t);
  }();
  return number % 2 ? static_cast<const MapKernel&>(lanes) : words;
}

void put_varint(Bytes& out, std::uint64_t value) {
  for (; value > 127; value >>= 7) out.push_back(std::uint8_t(value | 128));
  out.push_back(std::uint8_t(value));
}

bool decodes(const MapKernel& kernel, const Bytes& payload, const Index& index, const Shape& s, int threads, Bytes& values) {
  const std::int64_t size = s.element == Element::f32 ? 4 : 1;
  values.assign(std::size_t(s.values() * size), std::uint8_t(threads));
  const MapView view{values.data(), s.element, s.channels, s.rows, s.columns, s.rows * s.columns, s.columns, 1, 1, 0.5f};
  return decode_payload(kernel, payload.data(), std::int64_t(payload.size()), std::size_t(index.head_nbytes), view, threads).fault == Fault::none;
}

}  // namespace

TARGET(in) {
  const int mode = in.byte();
  Shape s = shape_of(in, 1 << 12);
  s.layout = 0;
  const std::uint16_t place = in.number<std::uint16_t>();
  const std::uint8_t flip = in.byte();
  const MapKernel& kernel = kernel_of(mode);
  Bytes payload{std::uint8_t(s.element == Element::f32 ? 0 : s.element == Element::u8 ? 3 : 4), 3};
  for (const std::int64_t dim : {s.channels, s.rows, s.columns}) put_varint(payload, std::uint64_t(dim));
  const std::size_t head = payload.size(), count = std::size_t((s.rows + 7) / 8);
  if (mode & 2) {  // what an encoder writes
    const Bytes from = in.rest();
    Bytes values(std::size_t(s.values()) * (s.element == Element::f32 ? 4 : 1), 0);
    for (std::size_t i = 0; i < values.size() && s.element != Element::f32 && !from.empty(); ++i) values[i] = from[i % from.size()];
    const MapView view{values.data(), s.element, s.channels, s.rows, s.columns, s.rows * s.columns, s.columns, 1, 2, 0.5f};
    const std::int64_t room = max_payload_nbytes(kernel, view, head);
    Bytes out(static_cast<std::size_t>(room)), again(static_cast<std::size_t>(room));
    must(encode_payload(kernel, view, payload.data(), head, begin_of(out), room - 1, 1).fault == Fault::output_small, "too small an output is not seen");
    out.resize(std::size_t(encode_payload(kernel, view, payload.data(), head, begin_of(out), room, 1).nbytes));
    again.resize(std::size_t(encode_payload(kernel, view, payload.data(), head, begin_of(again), room, 3).nbytes));
    must(out == again, "threads change what is encoded");
    payload = out;
  } else {  // the input's stripes under right checks
    std::vector<std::size_t> sizes;
    for (std::size_t i = 0; i + 1 < count; ++i) sizes.push_back(in.number<std::uint16_t>());
    const Bytes rest = in.rest();
    payload.resize(head + 8 * count);
    const PayloadTable table(payload.data(), head);
    std::size_t at = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t size = i < sizes.size() ? std::min(sizes[i], rest.size() - at) : rest.size() - at;
      table.put(payload.data(), std::int64_t(i), begin_of(rest) + at, size);
      at += size;
    }
    payload.insert(payload.end(), rest.begin(), rest.end());
  }
  payload = Bytes(payload);
  Index index;
  must(read_index(payload.data(), std::int64_t(payload.size()), index) && index.stripes == std::int64_t(count) && index.head_nbytes == std::int64_t(head), "an index is not read");
  Bytes values, again;
  const bool good = decodes(kernel, payload, index, s, 1, values);
  must(good == decodes(kernel, payload, index, s, 3, again), "threads change what is refused");
  must(!good || values == again, "threads change what is decoded");
  must(good || !(mode & 2), "what an encoder wrote is refused");

  Bytes frame(max_frame_head_nbytes);
  const std::uint32_t site = place % 300, plan = 0x9E3779B9u * place;
  frame.resize(write_frame_head(frame.data(), site, plan, payload.size(), payload.data(), head + 8 * count));
  const std::size_t start = frame.size();
  frame.insert(frame.end(), payload.begin(), payload.end());
  frame = Bytes(frame);
  Frame found;
  must(read_frame_head(frame.data(), std::int64_t(frame.size()), found) && found.site == site && found.plan_id == plan && found.start == std::int64_t(start) &&
           found.nbytes == std::int64_t(payload.size()), "a frame is not read");
  if (!flip) return;
  const std::size_t at = place % frame.size();
  frame[at] ^= flip;
  must(at >= start + head + 8 * count || !read_frame_head(frame.data(), std::int64_t(frame.size()), found), "a changed byte of a frame's head is not seen");
  if (at < start + head + 8 * count) return;
  payload[at - start] ^= flip;
  must(!decodes(kernel, payload, index, s, 1, values), "a changed byte of a stripe is not seen");
}
