// What the files of this folder share. Nothing outside native/bind knows Python.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace nb = nanobind;

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;     // any buffer, read only
using ByteSink = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;       // the caller's output

void bind_maps(nb::module_& m);
void bind_cells(nb::module_& m);
void bind_entropy(nb::module_& m);
void bind_words(nb::module_& m);
void bind_context(nb::module_& m);
void bind_planes(nb::module_& m);
