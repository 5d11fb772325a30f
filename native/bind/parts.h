// The parts of a model, out of the dictionary in which Python hands them over.
#pragma once
#include <vector>

#include "bind.h"

inline void need(bool good, const char* what) {
  if (!good) throw nb::value_error(what);
}

// `name` as a vector of exactly `count` elements.
template <class T>
std::vector<T> taken(const nb::dict& from, const char* name, std::size_t count) {
  nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu> array;
  if (!from.contains(name) || !nb::try_cast(from[name], array, false)) throw nb::type_error(name);
  if (array.shape(0) != count) throw nb::value_error(name);
  return {array.data(), array.data() + count};
}

inline int number(const nb::dict& from, const char* name) { return nb::cast<int>(from[name]); }
