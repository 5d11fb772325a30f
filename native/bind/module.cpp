// tensorpress._native: checks arguments, releases the GIL, copies nothing.
#include "bind.h"
#include "tensorpress/crc32c.h"

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of TensorPress; each has a slow twin in Python that says what it computes.";
  m.def(
      "crc32c",
      [](nb::handle object, std::uint32_t seed) {
        Py_buffer view;
        if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
        std::uint32_t check;
        {
          nb::gil_scoped_release free_threads;
          check = tensorpress::crc32c(static_cast<const std::uint8_t*>(view.buf), static_cast<std::size_t>(view.len), seed);
        }
        PyBuffer_Release(&view);
        return check;
      },
      nb::arg("data"), nb::arg("seed") = 0);
  bind_cells(m);
  bind_entropy(m);
}
