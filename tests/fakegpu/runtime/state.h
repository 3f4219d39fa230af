// State that all parts of the fake CUDA runtime share: settings, counts, errors, devices and captures.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

constexpr int kMaxDevices = 16;

// The kinds of copies, in the order of COPY_KINDS in counters.py.
enum CopyKind { kDeviceToDevice, kPinnedToDevice, kPageableToDevice, kDeviceToPinned, kDeviceToPageable, kHostToHost, kCopyKinds };

// What has been counted since the last reset. The layout is that of _Raw in counters.py.
struct Counts {
  std::atomic<int64_t> launches;
  std::atomic<int64_t> graph_launches;
  std::atomic<int64_t> captured_launches;
  std::atomic<int64_t> stream_synchronizations;
  std::atomic<int64_t> device_synchronizations;
  std::atomic<int64_t> event_synchronizations;
  std::atomic<int64_t> blocking_copies;
  std::atomic<int64_t> memsets;
  std::atomic<int64_t> copies[kCopyKinds];
  std::atomic<int64_t> copied_bytes[kCopyKinds];
  std::atomic<int64_t> allocations[kMaxDevices];
  std::atomic<int64_t> pinned_allocations[kMaxDevices];
  // These two are states, which a reset leaves alone.
  std::atomic<int64_t> allocated_bytes[kMaxDevices];
  std::atomic<int64_t> contexts[kMaxDevices];
};
extern Counts counts;

// Settings, read from the environment once.
struct Settings {
  int devices;            // FAKE_CUDA_DEVICES (1)
  size_t device_bytes;    // FAKE_CUDA_BYTES (8 GiB), of each device
  size_t pinned_bytes;    // FAKE_PINNED_BYTES (no limit)
  int64_t fail_at;        // FAKE_CUDA_FAIL_AT: the synchronization at which the device dies; 0 for never
  bool garbage;           // new device memory is filled with 0xFF bytes: NaN in each floating-point type
  bool kernel_names;      // FAKE_CUDA_NAMES=1: launches are counted by kernel
};
const Settings& settings();

// Errors. A device that has died returns its error from every call from then on.
cudaError_t finish(cudaError_t error = cudaSuccess);
bool device_is_dead();

// Devices. A device gets a context by the first call that needs one while it is current.
int current_device();
void set_current_device(int device);
void create_context(int device);

// Memory.
enum MemoryKind { kPageable, kPinned, kDevice };
struct Memory {
  MemoryKind kind;
  int device;
};
Memory memory_at(const void* pointer);

// Captures. Returns whether the stream, or any stream, records a graph instead of running.
bool is_capturing(cudaStream_t stream);
bool any_capture();
// Marks the capture as invalid and returns CUDA's error for a call that is forbidden in it.
cudaError_t refuse_in_capture(cudaStream_t stream);
// Lets a stream that waits for an event of a capture join it. `capture` is 0 for an event outside of captures.
int64_t capture_of(cudaStream_t stream);
void join_capture(cudaStream_t stream, int64_t capture);
bool capture_is_active(int64_t capture);
void count_captured_launch(cudaStream_t stream);

// Counts a synchronization, which is the point where the device may die.
cudaError_t synchronize(std::atomic<int64_t>& counter);

void count_launch(const void* kernel, cudaStream_t stream);
