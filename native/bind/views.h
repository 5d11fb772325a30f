// Arrays as kernels see them.
#pragma once
#include "bind.h"
#include "tensorpress/map.h"

// A (C, H, W) array of any strides. Where it is read only, a kernel must only read it.
template <class Array>
tensorpress::MapView view_of(const Array& map) {
  tensorpress::MapView view{};
  if (map.dtype() == nb::dtype<float>()) view.element = tensorpress::Element::f32;
  else if (map.dtype() == nb::dtype<std::uint8_t>()) view.element = tensorpress::Element::u8;
  else if (map.dtype() == nb::dtype<std::int8_t>()) view.element = tensorpress::Element::i8;
  else throw nb::type_error("the map must be float32, uint8 or int8");
  view.data = const_cast<void*>(static_cast<const void*>(map.data()));
  view.channels = std::int64_t(map.shape(0)), view.rows = std::int64_t(map.shape(1)), view.columns = std::int64_t(map.shape(2));
  view.channel_stride = map.stride(0), view.row_stride = map.stride(1), view.column_stride = map.stride(2);
  view.reciprocal = view.scale = 1;
  return view;
}
