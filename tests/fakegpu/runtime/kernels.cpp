// Kernels: their names, as each library registers them when it is loaded, and their launches, which do nothing.
#include "state.h"

#include <cstring>
#include <map>
#include <string>
#include <unordered_map>

static std::mutex mutex;
static auto& launches_by_name = *new std::map<std::string, int64_t>();

// Libraries register before this file's own statics are made, hence a function.
static std::unordered_map<const void*, const char*>& names() {
  static auto* registered = new std::unordered_map<const void*, const char*>();
  return *registered;
}

void count_launch(const void* kernel, cudaStream_t stream) {
  create_context(current_device());
  if (is_capturing(stream)) {
    counts.captured_launches++;
    count_captured_launch(stream);
    return;
  }
  counts.launches++;
  if (!settings().kernel_names) return;
  std::lock_guard<std::mutex> guard(mutex);
  auto found = names().find(kernel);
  launches_by_name[found == names().end() ? "unknown" : found->second]++;
}

// The configuration of a launch, which compilers pass through the runtime: `kernel<<<grid, block, shared, stream>>>`.
struct Configuration {
  dim3 grid;
  dim3 block;
  size_t shared;
  void* stream;
};
static thread_local Configuration configuration;

extern "C" {

// Writes "count name" lines of the launches by kernel; returns the length of the whole text.
size_t fakegpu_kernels(char* text, size_t length) {
  std::lock_guard<std::mutex> guard(mutex);
  std::string lines;
  for (auto& [name, count] : launches_by_name) lines += std::to_string(count) + " " + name + "\n";
  if (length) {
    size_t written = lines.size() < length - 1 ? lines.size() : length - 1;
    memcpy(text, lines.data(), written);
    text[written] = 0;
  }
  return lines.size();
}

void fakegpu_reset_kernels() {
  std::lock_guard<std::mutex> guard(mutex);
  launches_by_name.clear();
}

// For ops of which the fake GPU has no kernel to launch, such as cuDNN's.
int fakegpu_launch(cudaStream_t stream) {
  count_launch(nullptr, stream);
  return finish();
}

// --- Launches ---

cudaError_t cudaLaunchKernel(const void* kernel, dim3, dim3, void**, size_t, cudaStream_t stream) {
  count_launch(kernel, stream);
  return finish();
}

cudaError_t cudaLaunchCooperativeKernel(const void* kernel, dim3, dim3, void**, size_t, cudaStream_t stream) {
  count_launch(kernel, stream);
  return finish();
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
  count_launch(kernel, config->stream);
  return finish();
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void**, size_t, cudaStream_t stream) {
  count_launch(kernel, stream);
  return finish();
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st* stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<void**>(stream) = configuration.stream;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->binaryVersion = 90;
  attributes->ptxVersion = 90;
  attributes->maxDynamicSharedSizeBytes = 232448;
  return finish();
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return finish(); }

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  *blocks = 8;
  return finish();
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  *blocks = 8;
  return finish();
}

cudaError_t cudaGetSymbolAddress(void** address, const void*) {
  static char symbol[1 << 20];
  *address = symbol;
  return finish();
}

// --- Registration, called when a library with kernels is loaded ---

void** __cudaRegisterFatBinary(void*) {
  static void* handle[4];
  return handle;
}

void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, void*, void*, void*, void*, int*) {
  std::lock_guard<std::mutex> guard(mutex);
  names()[function] = name;
}

void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
}
