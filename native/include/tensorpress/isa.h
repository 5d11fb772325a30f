// Which body of a kernel runs: the widest that the machine has, or what TENSORPRESS_ISA pins (scalar, avx2, avx512). Read once.
#pragma once

namespace tensorpress {

enum class Isa : int { scalar, avx2, avx512 };

Isa isa();

// Whether TENSORPRESS_ISA=scalar asks for code without special instructions; for what chooses by itself.
bool plain_code();

template <class Body>
const Body& choose(const Body& scalar, const Body& avx2, const Body& avx512) {
  switch (isa()) {
    case Isa::avx512: return avx512;
    case Isa::avx2: return avx2;
    default: return scalar;
  }
}

}  // namespace tensorpress

// The body `name` of a kernel whose source CMakeLists.txt compiles once for each instruction set, into a namespace of its own.
#if defined(TP_X86)
#define TP_CHOOSE(name) ::tensorpress::choose(scalar::name, avx2::name, avx512::name)
#else
#define TP_CHOOSE(name) scalar::name
#endif
