// Chunks and parts of `float_planes`: which is stored how, and the bytes.
#include "tensorpress/byte_planes.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "tensorpress/isa.h"

namespace tensorpress {
namespace {

using std::int64_t, std::uint32_t, std::uint64_t, std::uint8_t;
using Bytes = std::vector<uint8_t>;

enum Kind : uint8_t { plain, constant, coded, own };
constexpr int64_t aside = 16;  // zeros are left out of a chunk's lower planes from one in so many values on

MapView row_of(const uint8_t* symbols, int64_t count) {
  MapView view{};
  view.data = const_cast<uint8_t*>(symbols), view.element = Element::u8;
  view.channels = view.rows = 1, view.columns = view.channel_stride = view.row_stride = count, view.column_stride = 1;
  view.reciprocal = view.scale = 1;
  return view;
}

int distinct(const ByteCounts& counts) {
  return int(std::count_if(counts.begin(), counts.end(), [](uint32_t count) { return count; }));
}

uint8_t most_frequent(const auto& counts) { return uint8_t(std::max_element(counts.begin(), counts.end()) - counts.begin()); }

// ---- encoding

struct Chunk {
  int64_t at, count, kept;  // values; those in the lower planes
  uint8_t flags[3] = {};    // of floats: whether zeros are left out, and what 0 and -0 are in the first plane
};

struct Part {
  Bytes head;  // up to the bytes themselves
  int64_t at, nbytes;
};

class Encoder {
 public:
  Encoder(const uint8_t* words, int64_t count, const WordLayout& layout) : words_(words), count_(count), layout_(layout), planes_(std::size_t(count * layout.itemsize)) {
    for (int64_t at = 0; at < count; at += plane_chunk) {
      const int64_t n = std::min(plane_chunk, count - at);
      TP_CHOOSE(byte_planes_body).part(words + at * layout.itemsize, n, layout, plane(0) + at, count);
      chunks_.push_back({at, n, n});
      if (layout.mantissa) leave_zeros_out(chunks_.back());
    }
  }

  Bytes stripe(int mode) {
    Bytes out{uint8_t(mode)};
    for (int p = 0; p < layout_.itemsize; ++p) {
      const Bytes head = code(p);
      out.insert(out.end(), head.begin(), head.end());
    }
    std::size_t nbytes = out.size();
    for (const Part& part : parts_) nbytes += part.head.size() + std::size_t(part.nbytes);
    for (const Chunk& chunk : chunks_) nbytes += flags_nbytes(chunk);
    if (nbytes > std::size_t(count_ * layout_.itemsize)) return {};
    out.reserve(nbytes);
    for (std::size_t c = 0; c < chunks_.size(); ++c) {
      out.insert(out.end(), chunks_[c].flags, chunks_[c].flags + flags_nbytes(chunks_[c]));
      for (int p = 0; p < layout_.itemsize; ++p) {
        const Part& part = parts_[p * chunks_.size() + c];
        const uint8_t* const from = part.at < 0 ? plane(p) + chunks_[c].at : strings_.data() + part.at;
        out.insert(out.end(), part.head.begin(), part.head.end());
        out.insert(out.end(), from, from + part.nbytes);
      }
    }
    return out;
  }

 private:
  uint8_t* plane(int p) { return planes_.data() + p * count_; }
  int64_t values(const Chunk& chunk, int p) const { return p ? chunk.kept : chunk.count; }
  std::size_t flags_nbytes(const Chunk& chunk) const { return !layout_.mantissa ? 0 : chunk.flags[0] ? 3 : 1; }

  void leave_zeros_out(Chunk& chunk) {
    const auto& body = TP_CHOOSE(byte_planes_body);
    const uint8_t* const words = words_ + chunk.at * layout_.itemsize;
    uint8_t* const first = plane(0) + chunk.at;
    const int64_t zeros = body.zeros(words, chunk.count, layout_.itemsize), kept = chunk.count - zeros;
    if (zeros * aside < chunk.count) return;
    Bytes whole(first, first + chunk.count), others(std::size_t((kept + 1) * layout_.itemsize));
    body.others(words, chunk.count, layout_.itemsize, others.data());
    body.part(others.data(), kept, layout_, first, count_);
    ByteCounts counts;
    count_bytes(first, kept, counts);
    int free[256], n = 0;
    for (int s = 0; s < 256; ++s)
      if (!counts[s]) free[n++] = s;
    std::copy(whole.begin(), whole.end(), first);
    if (n < 2) return body.part(words, chunk.count, layout_, first, count_);
    chunk.flags[0] = 1, chunk.flags[1] = uint8_t(free[0] ? free[n - 2] : 0), chunk.flags[2] = uint8_t(free[n - 1]);
    chunk.kept = kept;
    body.mark(words, chunk.count, layout_.itemsize, chunk.flags[1], chunk.flags[2], first);
  }

  // The plane's head; its parts, one for each chunk, are added.
  Bytes code(int p) {
    std::vector<ByteCounts> counts(chunks_.size());
    std::array<uint64_t, 256> total{};
    int64_t size = 0, gain = 0;
    std::vector<int64_t> least(chunks_.size());
    for (std::size_t c = 0; c < chunks_.size(); ++c) {
      count_bytes(plane(p) + chunks_[c].at, values(chunks_[c], p), counts[c]);
      for (int s = 0; s < 256; ++s) total[s] += counts[c][s];
      least[c] = entropy_nbytes(counts[c]);
      size += values(chunks_[c], p), gain += values(chunks_[c], p) - least[c];
    }
    const int64_t seen = std::count_if(total.begin(), total.end(), [](uint64_t count) { return count; });
    if (seen <= 1) {
      parts_.resize(parts_.size() + chunks_.size(), Part{{}, 0, 0});
      return {constant, most_frequent(total)};
    }
    if (gain > seen) {
      const LaneModel model = model_of(total);
      const LanedRans coder = model.coder();
      Bytes head{coded};
      const Bytes packed = model.bytes();
      put_varint(head, packed.size());
      head.insert(head.end(), packed.begin(), packed.end());
      const std::size_t before = parts_.size(), strings = strings_.size();
      std::size_t nbytes = head.size();
      for (std::size_t c = 0; c < chunks_.size(); ++c) {
        parts_.push_back(coded_part(plane(p) + chunks_[c].at, values(chunks_[c], p), counts[c], coder, model.nbytes_of(counts[c]) - least[c]));
        nbytes += parts_.back().head.size() + std::size_t(parts_.back().nbytes);
      }
      if (nbytes < std::size_t(1 + size)) return head;
      parts_.resize(before), strings_.resize(strings);
    }
    for (const Chunk& chunk : chunks_) parts_.push_back({{}, -1, values(chunk, p)});
    return {plain};
  }

  Part coded_part(const uint8_t* symbols, int64_t count, const ByteCounts& counts, const LanedRans& shared, int64_t excess) {
    const int seen = distinct(counts);
    if (seen <= 1) return {{constant, most_frequent(counts)}, 0, 0};
    Part found{{coded}, int64_t(strings_.size()), string(symbols, count, shared)};
    put_varint(found.head, uint64_t(found.nbytes));
    if (excess > seen) {
      std::array<uint64_t, 256> wide;
      std::copy(counts.begin(), counts.end(), wide.begin());
      const LaneModel model = model_of(wide);
      const Bytes packed = model.bytes();
      Part other{{own}, int64_t(strings_.size()), string(symbols, count, model.coder())};
      put_varint(other.head, packed.size());
      other.head.insert(other.head.end(), packed.begin(), packed.end());
      put_varint(other.head, uint64_t(other.nbytes));
      if (nbytes(other) < nbytes(found)) found = std::move(other);
    }
    return nbytes(found) < 1 + count ? found : Part{{plain}, -1, count};
  }

  static int64_t nbytes(const Part& part) { return int64_t(part.head.size()) + part.nbytes; }

  int64_t string(const uint8_t* symbols, int64_t count, const LanedRans& coder) {
    const std::size_t at = strings_.size();
    strings_.resize(at + std::size_t(count + output_slack));
    const int64_t nbytes = coder.encode(row_of(symbols, count), 0, strings_.data() + at).nbytes;
    strings_.resize(at + std::size_t(nbytes));
    return nbytes;
  }

  const uint8_t* words_;
  int64_t count_;
  WordLayout layout_;
  Bytes planes_, strings_;
  std::vector<Chunk> chunks_;
  std::vector<Part> parts_;  // plane by plane
};

// ---- decoding

struct Source {
  const uint8_t *p, *end;

  const uint8_t* take(uint64_t nbytes) {
    if (nbytes > uint64_t(end - p)) return nullptr;
    p += nbytes;
    return p - nbytes;
  }
  bool byte(uint8_t& value) {
    const uint8_t* const found = take(1);
    if (found) value = *found;
    return found;
  }
  bool block(const uint8_t*& data, uint64_t& nbytes) { return take_varint(p, end, nbytes) && (data = take(nbytes)); }
  bool coder(std::unique_ptr<LanedRans>& to) {
    const uint8_t* data;
    uint64_t nbytes;
    LaneModel model;
    if (!block(data, nbytes) || !read_model(data, int64_t(nbytes), model)) return false;
    to = std::make_unique<LanedRans>(model.coder());
    return true;
  }
};

struct Plane {
  uint8_t kind = plain, value = 0;
  std::unique_ptr<LanedRans> shared;

  bool read(Source& from) {
    return from.byte(kind) && kind <= coded && (kind != constant || from.byte(value)) && (kind != coded || from.coder(shared));
  }

  bool part(Source& from, uint8_t* out, int64_t count) const {
    uint8_t how = kind, same = value;
    std::unique_ptr<LanedRans> other;
    if (kind == coded && !(from.byte(how) && how <= own && (how != constant || from.byte(same)) && (how != own || from.coder(other)))) return false;
    if (how == constant) {
      std::memset(out, same, std::size_t(count));
      return true;
    }
    const uint8_t* data;
    uint64_t nbytes;
    if (how == plain) {
      if (!(data = from.take(uint64_t(count)))) return false;
      std::memcpy(out, data, std::size_t(count));
      return true;
    }
    if (!from.block(data, nbytes)) return false;
    if (!count) return !nbytes;
    return (other ? other : shared)->decode(data, int64_t(nbytes), row_of(out, count), 0).fault == Fault::none;
  }
};

}  // namespace

Bytes encode_planes(const uint8_t* words, int64_t count, const WordLayout& layout, int mode) { return Encoder(words, count, layout).stripe(mode); }

bool decode_planes(const uint8_t* data, int64_t nbytes, const WordLayout& layout, uint8_t* words, int64_t count) {
  Source from{data, data + nbytes};
  Plane planes[8];
  for (int p = 0; p < layout.itemsize; ++p)
    if (!planes[p].read(from)) return false;
  const auto& body = TP_CHOOSE(byte_planes_body);
  const int64_t stride = std::min(count, plane_chunk);
  Bytes held(std::size_t(stride * layout.itemsize)), row, others;
  for (int64_t at = 0; at < count; at += plane_chunk) {
    const int64_t n = std::min(plane_chunk, count - at);
    uint8_t flag = 0, *const first = held.data(), *const to = words + at * layout.itemsize;
    const uint8_t* zeros = nullptr;
    if (layout.mantissa && !(from.byte(flag) && flag <= 1 && (!flag || (zeros = from.take(2))))) return false;
    if (!planes[0].part(from, first, n)) return false;
    int64_t kept = n;
    if (flag) {
      row.assign(first, first + n), kept = 0;
      for (int64_t i = 0; i < n; ++i) {
        first[kept] = row[i];
        kept += (row[i] != zeros[0]) & (row[i] != zeros[1]);
      }
      others.resize(std::size_t((kept + 1) * layout.itemsize));
    }
    for (int p = 1; p < layout.itemsize; ++p)
      if (!planes[p].part(from, first + p * stride, kept)) return false;
    body.join(first, stride, kept, layout, flag ? others.data() : to);
    if (flag) body.place(others.data(), row.data(), n, layout.itemsize, zeros[0], zeros[1], to);
  }
  return from.p == from.end;
}

}  // namespace tensorpress
