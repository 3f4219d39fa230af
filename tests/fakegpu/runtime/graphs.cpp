// CUDA graphs: captures with CUDA's rules. A graph that is launched counts as one launch and computes nothing.
#include "state.h"

#include <iterator>
#include <unordered_map>

struct Graph {
  int64_t launches;
};

struct Capture {
  bool is_valid;
  Graph* graph;
};

static std::mutex mutex;
static std::atomic<int> active{0};  // so that calls outside of captures take no lock
static auto& captures = *new std::unordered_map<int64_t, Capture>();        // those that have not ended, by number
static auto& capturing = *new std::unordered_map<cudaStream_t, int64_t>();  // the capture that a stream is part of
static int64_t next_capture = 1;

static Graph* graph_of(cudaGraph_t graph) { return reinterpret_cast<Graph*>(graph); }

bool any_capture() { return active > 0; }

int64_t capture_of(cudaStream_t stream) {
  if (!active) return 0;
  std::lock_guard<std::mutex> guard(mutex);
  auto found = capturing.find(stream);
  return found == capturing.end() ? 0 : found->second;
}

bool is_capturing(cudaStream_t stream) { return capture_of(stream) != 0; }

bool capture_is_active(int64_t capture) {
  if (!active || !capture) return false;
  std::lock_guard<std::mutex> guard(mutex);
  return captures.count(capture) > 0;
}

void join_capture(cudaStream_t stream, int64_t capture) {
  if (!capture_is_active(capture)) return;
  std::lock_guard<std::mutex> guard(mutex);
  capturing[stream] = capture;
}

void count_captured_launch(cudaStream_t stream) {
  int64_t capture = capture_of(stream);
  std::lock_guard<std::mutex> guard(mutex);
  captures[capture].graph->launches++;
}

cudaError_t refuse_in_capture(cudaStream_t stream) {
  int64_t capture = capture_of(stream);
  std::lock_guard<std::mutex> guard(mutex);
  for (auto& [number, state] : captures) {
    if (!capture || number == capture) state.is_valid = false;
  }
  return finish(cudaErrorStreamCaptureUnsupported);
}

extern "C" {

// --- Captures ---

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  create_context(current_device());
  if (!stream) return finish(cudaErrorStreamCaptureUnsupported);  // the default stream cannot be captured
  if (is_capturing(stream)) return finish(cudaErrorIllegalState);
  std::lock_guard<std::mutex> guard(mutex);
  int64_t number = next_capture++;
  captures[number] = {true, new Graph{0}};
  capturing[stream] = number;
  active++;
  return finish();
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  int64_t number = capture_of(stream);
  if (!number) return finish(cudaErrorIllegalState);
  std::lock_guard<std::mutex> guard(mutex);
  Capture ended = captures[number];
  captures.erase(number);
  for (auto entry = capturing.begin(); entry != capturing.end();) {
    entry = entry->second == number ? capturing.erase(entry) : std::next(entry);
  }
  active--;
  *graph = nullptr;
  if (!ended.is_valid) {
    delete ended.graph;
    return finish(cudaErrorStreamCaptureInvalidated);
  }
  *graph = reinterpret_cast<cudaGraph_t>(ended.graph);
  return finish();
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = is_capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return finish();
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* dependency_count) {
  int64_t number = capture_of(stream);
  *status = number ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (dependencies) *dependencies = nullptr;
  if (edges) *edges = nullptr;
  if (dependency_count) *dependency_count = 0;
  if (!number) return finish();
  std::lock_guard<std::mutex> guard(mutex);
  if (id) *id = number;
  if (graph) *graph = reinterpret_cast<cudaGraph_t>(captures[number].graph);
  return finish();
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return finish(); }

// --- Graphs ---

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*graph_of(graph)));
  return finish();
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiateWithFlags(executable, graph, flags);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) {
  create_context(current_device());
  counts.launches++;
  counts.graph_launches++;
  return finish();
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph_of(graph);
  return finish();
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Graph*>(executable);
  return finish();
}

// A graph has at least one node: PyTorch warns about those that have none, which emulated ones would be.
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  size_t existing = graph_of(graph)->launches ? graph_of(graph)->launches : 1;
  if (!nodes) *count = existing;
  else for (size_t i = 0; i < *count; i++) nodes[i] = nullptr;
  return finish();
}

cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t, cudaGraphNode_t*, cudaGraphEdgeData*, size_t* count) {
  *count = 0;
  return finish();
}

cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void*, cudaHostFn_t, unsigned, unsigned) {
  *object = nullptr;
  return finish();
}

cudaError_t cudaUserObjectRelease(cudaUserObject_t, unsigned) { return finish(); }
cudaError_t cudaGraphRetainUserObject(cudaGraph_t, cudaUserObject_t, unsigned, unsigned) { return finish(); }
cudaError_t cudaDeviceSetGraphMemAttribute(int, cudaGraphMemAttributeType, void*) { return finish(); }

cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType, void* value) {
  *static_cast<uint64_t*>(value) = 0;
  return finish();
}
}
