// PlainFloats as a context manager: for what NumPy and Python's own floats do between kernels.
#include <optional>

#include "bind.h"
#include "tensorpress/floats.h"

namespace {

class Scope {
 public:
  void enter() { plain_.emplace(); }
  void leave(nb::args) { plain_.reset(); }

 private:
  std::optional<tensorpress::PlainFloats> plain_;
};

}  // namespace

void bind_floats(nb::module_& m) {
  m.def("floats_are_plain", [] { return tensorpress::FloatState::now().is_plain(); });
  nb::class_<Scope>(m, "PlainFloats").def(nb::init<>()).def("__enter__", &Scope::enter).def("__exit__", &Scope::leave);
}
