#include "tensorpress/isa.h"

#include <cstdlib>
#include <string_view>

namespace tensorpress {
namespace {

std::string_view pinned() {
  const char* wanted = std::getenv("TENSORPRESS_ISA");
  return wanted ? wanted : "";
}

Isa find() {
#if defined(TP_X86)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512cd");
  if (avx512 && pinned() != "avx2" && pinned() != "scalar") return Isa::avx512;
  if (avx2 && pinned() != "scalar") return Isa::avx2;
#endif
  return Isa::scalar;
}

}  // namespace

Isa isa() {
  static const Isa found = find();
  return found;
}

bool plain_code() {
  static const bool found = pinned() == "scalar";
  return found;
}

}  // namespace tensorpress
