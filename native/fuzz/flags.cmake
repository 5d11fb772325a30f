# What the fuzzers are compiled with; included before the core is, whose kernels they are made to break.
option(TENSORPRESS_FUZZ_COVERAGE "Replay programs that count lines, in place of fuzzers" OFF)
if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  message(FATAL_ERROR "fuzzers need clang, not ${CMAKE_CXX_COMPILER_ID}: -DCMAKE_CXX_COMPILER=clang++")
endif()
if(TENSORPRESS_FUZZ_COVERAGE)
  set(TP_FUZZ -fprofile-instr-generate -fcoverage-mapping)
else()
  set(TP_FUZZ -fsanitize=address,undefined -fno-sanitize-recover=all)
  list(APPEND TP_FLAGS -fsanitize=fuzzer-no-link -fno-sanitize-coverage=trace-cmp)  # no magic numbers here, and comparisons are everywhere
endif()
list(APPEND TP_FLAGS ${TP_FUZZ} -O1 -gline-tables-only -fno-omit-frame-pointer -Wno-unknown-warning-option)
