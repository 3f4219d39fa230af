// Streams, events and synchronizations. Everything is done when its call returns, so that there is nothing to wait for.
#include "state.h"

#include <chrono>

using Clock = std::chrono::steady_clock;

struct Event {
  bool is_recorded;
  Clock::time_point time;
  int64_t capture;  // in which it was recorded; 0 for none
};

static std::atomic<uintptr_t> streams{16};

static cudaError_t create_stream(cudaStream_t* stream) {
  create_context(current_device());
  *stream = reinterpret_cast<cudaStream_t>(streams += 16);
  return finish();
}

static cudaError_t create_event(cudaEvent_t* event) {
  create_context(current_device());
  *event = reinterpret_cast<cudaEvent_t>(new Event{});
  return finish();
}

static cudaError_t record(cudaEvent_t handle, cudaStream_t stream) {
  Event* event = reinterpret_cast<Event*>(handle);
  event->is_recorded = true;
  event->time = Clock::now();
  event->capture = capture_of(stream);
  return finish();
}

extern "C" {

// --- Streams ---

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return create_stream(stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return create_stream(stream); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { return create_stream(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return finish(); }

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return finish();
}

cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return finish();
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (is_capturing(stream)) return refuse_in_capture(stream);
  return finish();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  join_capture(stream, reinterpret_cast<Event*>(event)->capture);
  return finish();
}

cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
  function(data);
  return finish();
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data, unsigned) {
  callback(stream, cudaSuccess, data);
  return finish();
}

// --- Synchronizations ---

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (is_capturing(stream)) return refuse_in_capture(stream);
  return synchronize(counts.stream_synchronizations);
}

cudaError_t cudaDeviceSynchronize() {
  create_context(current_device());
  if (any_capture()) return refuse_in_capture(nullptr);
  return synchronize(counts.device_synchronizations);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (capture_is_active(reinterpret_cast<Event*>(event)->capture)) return refuse_in_capture(nullptr);
  return synchronize(counts.event_synchronizations);
}

// --- Events, which record the time of the host ---

cudaError_t cudaEventCreate(cudaEvent_t* event) { return create_event(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return create_event(event); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return record(event, stream); }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) { return record(event, stream); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return finish();
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (capture_is_active(reinterpret_cast<Event*>(event)->capture)) return refuse_in_capture(nullptr);
  return finish();
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  Event* first = reinterpret_cast<Event*>(start);
  Event* second = reinterpret_cast<Event*>(end);
  if (!first->is_recorded || !second->is_recorded) return finish(cudaErrorInvalidResourceHandle);
  *milliseconds = std::chrono::duration<float, std::milli>(second->time - first->time).count();
  // Two events that follow one another at once are still some microseconds apart on a GPU.
  if (*milliseconds >= 0 && *milliseconds < 0.001f) *milliseconds = 0.001f;
  return finish();
}
}
