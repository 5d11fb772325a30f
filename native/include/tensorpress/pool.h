// Threads that wait for work, so that a call on a small map need not start any; and how a long call is stopped.
#pragma once
#include <atomic>
#include <chrono>
#include <thread>
#include <type_traits>

namespace tensorpress {

// Lets a call be given up while it lasts: made by the thread that calls, which asks `poll` (whether the user wants that) a few times a second.
class Stop {
 public:
  explicit Stop(bool (*poll)());
  ~Stop();
  Stop(const Stop&) = delete;
  bool asked();  // by any thread that works for the call; only the one that made it polls
  bool was_asked() const { return asked_.load(std::memory_order_relaxed); }

 private:
  const std::thread::id caller_ = std::this_thread::get_id();
  bool (*const poll_)();
  std::chrono::steady_clock::time_point next_;
  std::atomic<bool> asked_{false};
  Stop* const outer_;
};

// Whether what is left of this thread's call should be left undone; kernels ask between stripes. What they have written then is of no use.
bool stop_asked();

// Runs run(context, i) for i in 0 … count - 1 on up to `threads` threads, this one among them, and returns when all are done or left undone.
// Safe to call from many threads at once, and in a forked child.
void run_parallel(int count, int threads, void (*run)(void*, int), void* context);

// work(i) for i in 0 … count - 1; what each does must be its own, so results do not depend on `threads`. work must not throw.
template <class Work>
void parallel(int count, int threads, Work&& work) {
  if (threads <= 1 || count <= 1) {
    for (int i = 0; i < count && !stop_asked(); ++i) work(i);
    return;
  }
  run_parallel(count, threads, [](void* context, int i) { (*static_cast<std::remove_reference_t<Work>*>(context))(i); }, &work);
}

}  // namespace tensorpress
