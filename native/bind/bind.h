// What the files of this folder share. Nothing outside native/bind knows Python.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <type_traits>

#include "tensorpress/pool.h"

namespace nb = nanobind;

// Calls run(context). Every kernel is called through it, and it keeps its name in a stripped module: where a profiler sees a kernel begin and end.
extern "C" __attribute__((visibility("default"))) void tensorpress_kernel(void (*run)(void*), void* context);

// work() without the GIL. Where a signal handler raises meanwhile (Ctrl-C), work is left undone at the next stripe, and what was raised goes on.
template <class Work>
auto without_gil(Work&& work) {
  const auto poll = [] {
    const nb::gil_scoped_acquire hold;
    return PyErr_CheckSignals() != 0;  // handlers run in Python's main thread only
  };
  bool stopped;
  const auto freely = [&](auto&& run) {
    const nb::gil_scoped_release free_threads;
    tensorpress::Stop stop(poll);
    tensorpress_kernel([](void* context) { (*static_cast<std::remove_reference_t<decltype(run)>*>(context))(); }, &run);
    stopped = stop.was_asked();
  };
  if constexpr (std::is_void_v<std::invoke_result_t<Work>>) {
    freely(work);
    if (stopped) throw nb::python_error();
  } else {
    std::invoke_result_t<Work> result{};
    freely([&] { result = work(); });
    if (stopped) throw nb::python_error();
    return result;
  }
}

// The caller's output: written where it lies or refused, never converted into a copy that nobody sees.
template <class... Args>
struct Sink : nb::ndarray<Args...> {
  Sink() = default;
  explicit Sink(const nb::ndarray<Args...>& array) : nb::ndarray<Args...>(array) {}
};

template <class... Args>
struct nb::detail::type_caster<Sink<Args...>> {
  using Array = make_caster<nb::ndarray<Args...>>;
  NB_TYPE_CASTER(Sink<Args...>, Array::Name)
  bool from_python(handle from, std::uint32_t flags, cleanup_list* cleanup) noexcept {
    Array array;
    if (!array.from_python(from, flags & ~std::uint32_t(cast_flags::convert), cleanup)) return false;
    value = Sink<Args...>(array.value);
    return true;
  }
};

// What a coder takes, under the same rule: nanobind would cut floats to integers without a word.
template <class T, class... Args>
using Whole = Sink<const T, Args...>;

using Bytes = Whole<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;  // any buffer, read only
using ByteSink = Sink<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void bind_adaptive(nb::module_& m);
void bind_floats(nb::module_& m);
void bind_maps(nb::module_& m);
void bind_cells(nb::module_& m);
void bind_entropy(nb::module_& m);
void bind_words(nb::module_& m);
void bind_context(nb::module_& m);
void bind_context_max(nb::module_& m);
void bind_planes(nb::module_& m);
