// Threads that wait for work, so that a call on a small map need not start any.
#pragma once
#include <type_traits>

namespace tensorpress {

// Runs run(context, i) for i in 0 … count - 1 on up to `threads` threads, this one among them, and returns when all are done.
// Safe to call from many threads at once, and in a forked child.
void run_parallel(int count, int threads, void (*run)(void*, int), void* context);

// work(i) for i in 0 … count - 1; what each does must be its own, so results do not depend on `threads`. work must not throw.
template <class Work>
void parallel(int count, int threads, Work&& work) {
  if (threads <= 1 || count <= 1) {
    for (int i = 0; i < count; ++i) work(i);
    return;
  }
  run_parallel(count, threads, [](void* context, int i) { (*static_cast<std::remove_reference_t<Work>*>(context))(i); }, &work);
}

}  // namespace tensorpress
