// Which body of a kernel runs: the widest that the machine has, or what TENSORPRESS_ISA pins (scalar, avx2, avx512). Read once.
#pragma once

namespace tensorpress {

enum class Isa : int { scalar, avx2, avx512 };

Isa isa();

// One of a kernel's bodies, in the order of Isa; where a kernel has no avx2 body of its own it names the scalar one twice.
template <class Body>
const Body& choose(const Body& scalar, const Body& avx2, const Body& avx512) {
  switch (isa()) {
    case Isa::avx512: return avx512;
    case Isa::avx2: return avx2;
    default: return scalar;
  }
}

}  // namespace tensorpress
