// What every packer of words promises: whatever is decoded is encoded within its bound, and decoded to the same.
#pragma once
#include "input.h"

namespace fuzz {

// decode(data, words) -> whether it is good; encode(words) -> bytes. From `count` words of the input, or its bytes as they are.
template <class Decode, class Encode>
void packed(Input& in, std::size_t count, Decode decode, Encode encode) {
  const int mode = in.byte();
  Bytes data;
  if (mode & 1) {
    Input edits = in;
    for (int i = 0; i < 3 * (mode >> 1 & 3); ++i) in.byte();
    const Bytes from = in.rest();
    Bytes words(count);
    for (std::size_t i = 0; i < count && !from.empty(); ++i) words[i] = mode & 8 && i / 7 % 3 ? 0 : from[i % from.size()];
    data = encode(words);
    Bytes found(count, 0xA5);
    must(decode(data, found) && found == words, "words do not come back");
    edit(edits, mode >> 1 & 3, data);
    data = Bytes(data);
  } else {
    data = in.rest();
  }
  Bytes found(count, 0xA5), again(count, 0x5A);
  if (!decode(data, found)) return;
  const Bytes out = encode(found);
  must(decode(out, again) && again == found, "decoded words are not encoded to themselves");
}

}  // namespace fuzz
