// Arrays as kernels see them.
#pragma once
#include <optional>

#include "bind.h"
#include "tensorpress/map.h"

// Where a payload is written: the caller's buffer, or bytes of our own that are cut to size where they lie.
class Room {
 public:
  Room(const std::optional<ByteSink>& out, std::int64_t needed) : out_(out), nbytes_(out ? std::int64_t(out->size()) : needed) {
    if (!out && !(own_ = nb::steal(PyBytes_FromStringAndSize(nullptr, Py_ssize_t(needed)))).is_valid()) throw nb::python_error();
    data_ = out ? out->data() : reinterpret_cast<std::uint8_t*>(PyBytes_AS_STRING(own_.ptr()));
  }
  std::int64_t size() const { return nbytes_; }
  std::uint8_t* data() const { return data_; }
  // How many bytes were written, or the bytes.
  nb::object filled(std::int64_t nbytes) {
    if (out_) return nb::int_(nbytes);
    PyObject* cut = own_.release().ptr();
    if (_PyBytes_Resize(&cut, Py_ssize_t(nbytes)) != 0) throw nb::python_error();
    return nb::steal(cut);
  }

 private:
  const std::optional<ByteSink>& out_;
  std::int64_t nbytes_;
  nb::object own_;
  std::uint8_t* data_;
};

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
