#include "tensorpress/pool.h"

#include "tensorpress/floats.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace tensorpress {
namespace {

constexpr int max_workers = 255;
constexpr int spins = 2000;  // a few microseconds of looking before a worker sleeps: maps follow one another closely

constexpr auto between_polls = std::chrono::milliseconds(50);

thread_local Stop* stop = nullptr;  // of the call that this thread makes or works for

struct Job {
  void (*run)(void*, int);
  void* context;
  int count;
  std::atomic<int> next{0};
  Stop* const caller = stop;
  std::atomic<int> done{0};
  int helpers = 0;  // workers inside; guarded by the pool's mutex

  void work() {
    for (int i; !stop_asked() && (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      run(context, i);
      done.fetch_add(1, std::memory_order_release);
    }
  }
};

class Pool {
 public:
  void run(Job& job, int threads) {
    const int wanted = std::min({threads - 1, job.count - 1, max_workers});
    {
      const std::lock_guard lock(mutex_);
      while (int(workers_) < wanted) {
        try {
          std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
          break;  // no more threads to be had: the caller does the work
        }
        ++workers_;
      }
      for (int i = 0; i < wanted; ++i) jobs_.push_back(&job);
      waiting_.store(int(jobs_.size()), std::memory_order_release);
    }
    if (wanted == 1) wake_.notify_one();
    else wake_.notify_all();
    job.work();
    for (int i = 0; i < spins && job.done.load(std::memory_order_acquire) < job.count; ++i) pause();  // shorter than a sleep, where loads are even
    std::unique_lock lock(mutex_);
    std::erase(jobs_, &job);  // seats that nobody took
    waiting_.store(int(jobs_.size()), std::memory_order_release);
    while (!done_.wait_for(lock, between_polls, [&] { return job.helpers == 0; })) {
      lock.unlock();  // a poll may wait for a lock whose holder waits for ours
      stop_asked();
      lock.lock();
    }
  }

 private:
  [[noreturn]] void serve() {
    const PlainFloats plain;  // whatever the thread that made this one was set to
    for (;;) {
      for (int i = 0; i < spins && !waiting_.load(std::memory_order_acquire); ++i) pause();
      Job* job;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return !jobs_.empty(); });
        job = jobs_.front();
        jobs_.pop_front();
        waiting_.store(int(jobs_.size()), std::memory_order_release);
        ++job->helpers;
      }
      stop = job->caller;
      job->work();
      stop = nullptr;
      {
        const std::lock_guard lock(mutex_);
        if (--job->helpers == 0) done_.notify_all();
      }
    }
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<Job*> jobs_;  // a seat in a job each
  std::atomic<int> waiting_{0};
  int workers_ = 0;
};

std::atomic<Pool*> current{nullptr};

// A forked child has none of its parent's threads and perhaps a locked mutex: it begins with a pool of its own.
void forget_pool() { current.store(nullptr); }

Pool& pool() {
  Pool* found = current.load(std::memory_order_acquire);
  if (found) return *found;
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
#endif
  Pool* const made = new Pool;  // never freed: its threads outlive main
  if (current.compare_exchange_strong(found, made)) return *made;
  delete made;
  return *found;
}

}  // namespace

Stop::Stop(bool (*poll)()) : poll_(poll), next_(std::chrono::steady_clock::now() + between_polls), outer_(stop) { stop = this; }
Stop::~Stop() { stop = outer_; }

bool Stop::asked() {
  if (asked_.load(std::memory_order_relaxed)) return true;
  if (std::this_thread::get_id() != caller_) return false;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return false;
  const bool asked = poll_();
  asked_.store(asked, std::memory_order_relaxed);
  next_ = std::chrono::steady_clock::now() + between_polls;
  return asked;
}

bool stop_asked() { return stop && stop->asked(); }

void run_parallel(int count, int threads, void (*run)(void*, int), void* context) {
  Job job{run, context, count};
  pool().run(job, threads);
}

}  // namespace tensorpress
