// tensorpress._native: checks arguments, releases the GIL, copies nothing.
#include "bind.h"
#include "tensorpress/crc32c.h"
#include "tensorpress/floats.h"
#include "tensorpress/frame.h"

#include <stdexcept>

namespace {

// Any object with the buffer protocol, read only, for as long as this lives.
class View {
 public:
  explicit View(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nb::python_error();
  }
  ~View() { PyBuffer_Release(&view_); }
  View(const View&) = delete;
  const std::uint8_t* data() const { return static_cast<const std::uint8_t*>(view_.buf); }
  std::size_t size() const { return static_cast<std::size_t>(view_.len); }

 private:
  Py_buffer view_;
};

}  // namespace

extern "C" __attribute__((noinline)) void tensorpress_kernel(void (*run)(void*), void* context) {
  const tensorpress::PlainFloats plain;
  run(context);
  asm volatile("");  // no jump instead of the call: the function ends after the kernel
}

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of TensorPress; each has a slow twin in Python that says what it computes.";
  m.def(
      "crc32c",
      [](nb::handle object, std::uint32_t seed) {
        const View view(object);
        return without_gil([&] { return tensorpress::crc32c(view.data(), view.size(), seed); });
      },
      nb::arg("data"), nb::arg("seed") = 0);
  m.def("frame_head", [](nb::handle payload, std::size_t index_nbytes, std::uint32_t site, std::uint32_t plan_id) {
    const View view(payload);
    if (index_nbytes > view.size()) throw std::invalid_argument("payload is shorter than its index");
    std::uint8_t head[tensorpress::max_frame_head_nbytes];
    const std::size_t nbytes = tensorpress::write_frame_head(head, site, plan_id, view.size(), view.data(), index_nbytes);
    return nb::bytes(reinterpret_cast<const char*>(head), nbytes);
  });
  m.def("read_frame", [](nb::handle data) -> nb::object {
    const View view(data);
    tensorpress::Frame frame;
    if (!tensorpress::read_frame_head(view.data(), std::int64_t(view.size()), frame)) return nb::none();
    std::int64_t values = 1;
    for (int axis = 0; axis < frame.index.rank; ++axis) values *= frame.index.shape[axis];
    return nb::make_tuple(frame.site, frame.plan_id, frame.start, frame.start + frame.nbytes, frame.index.dtype, values);
  });
  bind_adaptive(m);
  bind_floats(m);
  bind_maps(m);
  bind_cells(m);
  bind_entropy(m);
  bind_words(m);
  bind_context(m);
  bind_context_max(m);
  bind_planes(m);
}
