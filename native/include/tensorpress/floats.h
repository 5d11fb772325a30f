// The arithmetic in which all results are defined: rounding to nearest, half to even, numbers below the normal range kept.
// A thread may have been set otherwise: torch.set_flush_denormal, a library linked with -ffast-math, fesetround. While a PlainFloats lives that is
// set aside; afterwards it stands as before. A thread that is made meanwhile inherits the plain state.
#pragma once
#include <bit>
#include <cfloat>
#include <cstdint>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <cfenv>
#endif

static_assert(std::endian::native == std::endian::little, "TensorPress's kernels read and write little-endian words: big-endian machines are not supported");
static_assert(FLT_EVAL_METHOD == 0, "floats must be computed in their own precision, or results differ: on 32-bit x86 compile with -msse2 -mfpmath=sse");
#if defined(__FAST_MATH__)
#error "TensorPress's results are defined by IEEE 754 arithmetic: it must not be compiled with -ffast-math"
#endif

namespace tensorpress {

#if defined(__x86_64__)
struct FloatState {
  static constexpr std::uint32_t plain = 0x1F80;  // every exception masked, to nearest, nothing flushed
  static constexpr std::uint32_t flags = 0x3F;    // what has occurred, which changes no result
  std::uint32_t word;
  static FloatState now() { return {__builtin_ia32_stmxcsr()}; }
  bool is_plain() const { return (word & ~flags) == plain; }
  static void make_plain() { __builtin_ia32_ldmxcsr(plain); }
  void set() const { __builtin_ia32_ldmxcsr(word); }
};
#elif defined(__aarch64__)
struct FloatState {
  std::uint64_t word;
  static FloatState now() {
    FloatState found;
    asm volatile("mrs %0, fpcr" : "=r"(found.word));
    return found;
  }
  bool is_plain() const { return word == 0; }
  static void make_plain() { FloatState{0}.set(); }
  void set() const { asm volatile("msr fpcr, %0" ::"r"(word) : "memory"); }
};
#else
struct FloatState {
  std::fenv_t word;
  static FloatState now() {
    FloatState found;
    std::fegetenv(&found.word);
    return found;
  }
  bool is_plain() const { return false; }  // what else may be set is this machine's own
  static void make_plain() { std::fesetenv(FE_DFL_ENV); }
  void set() const { std::fesetenv(&word); }
};
#endif

class PlainFloats {
 public:
  PlainFloats() {
    if (!found_.is_plain()) FloatState::make_plain();
  }
  ~PlainFloats() {
    if (!found_.is_plain()) found_.set();
  }
  PlainFloats(const PlainFloats&) = delete;

 private:
  const FloatState found_ = FloatState::now();
};

}  // namespace tensorpress
