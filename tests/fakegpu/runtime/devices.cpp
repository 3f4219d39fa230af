// Devices, contexts, errors, and what Python reads: counts and the state of the device.
#include "state.h"

#include <pthread.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>

Counts counts;

// --- Settings ---

static size_t number(const char* name, size_t fallback) {
  const char* text = getenv(name);
  return text && *text ? strtoull(text, nullptr, 10) : fallback;
}

static bool is_set(const char* name) {
  const char* text = getenv(name);
  return text && *text && strcmp(text, "0") != 0;
}

static Settings read_settings() {
  Settings read;
  int devices = (int)number("FAKE_CUDA_DEVICES", 1);
  read.devices = devices < kMaxDevices ? devices : kMaxDevices;
  read.device_bytes = number("FAKE_CUDA_BYTES", (size_t)8 << 30);
  read.pinned_bytes = number("FAKE_PINNED_BYTES", SIZE_MAX);
  read.fail_at = (int64_t)number("FAKE_CUDA_FAIL_AT", 0);
  // Where nothing is computed, garbage would only cost memory: pages that were never touched are not allocated.
  const char* mode = getenv("FAKEGPU_MODE");
  read.garbage = !is_set("FAKE_CUDA_ZERO") && !(mode && strcmp(mode, "count") == 0);
  read.kernel_names = is_set("FAKE_CUDA_NAMES");
  return read;
}

const Settings& settings() {
  static const Settings read = read_settings();
  return read;
}

// --- Errors ---

static std::atomic<int> dead{0};
static std::atomic<int64_t> all_synchronizations{0};
static thread_local cudaError_t last_error = cudaSuccess;

bool device_is_dead() { return dead != 0; }

cudaError_t finish(cudaError_t error) {
  if (dead) error = cudaErrorECCUncorrectable;
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t synchronize(std::atomic<int64_t>& counter) {
  counter++;
  int64_t number = ++all_synchronizations;
  if (settings().fail_at && number >= settings().fail_at) dead = 1;
  return finish();
}

// --- Devices and contexts ---

static thread_local int current = 0;

int current_device() { return current; }
void set_current_device(int device) { current = device; }
void create_context(int device) { counts.contexts[device] = 1; }

// Gloo's threads switch back to device 0 after each collective. NCCL, in whose place Gloo is, has no such threads.
static bool is_gloo_thread() {
  char name[16] = "";
  pthread_getname_np(pthread_self(), name, sizeof name);
  return strncmp(name, "pt_gloo", 7) == 0;
}

static bool is_device(int device) { return device >= 0 && device < settings().devices; }

extern "C" {

// --- What Python reads ---

const Counts* fakegpu_counts() { return &counts; }
const std::atomic<int>* fakegpu_dead() { return &dead; }

void fakegpu_reset_counts() {
  auto* first = reinterpret_cast<std::atomic<int64_t>*>(&counts);
  auto* end = reinterpret_cast<std::atomic<int64_t>*>(&counts.allocated_bytes);
  for (auto* counter = first; counter != end; counter++) *counter = 0;
}

// --- Errors ---

cudaError_t cudaGetLastError() {
  cudaError_t error = finish(last_error);
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return finish(last_error); }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorECCUncorrectable: return "uncorrectable ECC error encountered";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotSupported: return "operation not supported";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorIllegalState: return "the operation cannot be performed in the present state";
    default: return "unknown error";
  }
}

const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }

// --- Devices ---

cudaError_t cudaGetDeviceCount(int* count) {
  *count = settings().devices;
  return finish(*count ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return finish();
}

cudaError_t cudaSetDevice(int device) {
  if (!is_device(device)) return finish(cudaErrorInvalidDevice);
  current = device;
  if (!is_gloo_thread()) create_context(device);
  return finish();
}

cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
  if (!is_device(device)) return finish(cudaErrorInvalidDevice);
  create_context(device);
  return finish();
}

// A Hopper GPU, by the limits that PyTorch asks for.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!is_device(device)) return finish(cudaErrorInvalidDevice);
  memset(properties, 0, sizeof *properties);
  strcpy(properties->name, "Fake GPU");
  properties->totalGlobalMem = settings().device_bytes;
  properties->major = 9;
  properties->minor = 0;
  properties->multiProcessorCount = 132;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxThreadsDim[0] = 1024;
  properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = INT_MAX;
  properties->maxGridSize[1] = 65535;
  properties->maxGridSize[2] = 65535;
  properties->regsPerBlock = 65536;
  properties->regsPerMultiprocessor = 65536;
  properties->sharedMemPerBlock = 49152;
  properties->sharedMemPerBlockOptin = 232448;
  properties->sharedMemPerMultiprocessor = 233472;
  properties->l2CacheSize = 60 << 20;
  properties->textureAlignment = 512;
  properties->unifiedAddressing = 1;
  properties->managedMemory = 1;
  properties->concurrentKernels = 1;
  properties->canMapHostMemory = 1;
  return finish();
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMaxGridDimX: *value = INT_MAX; break;
    case cudaDevAttrMaxGridDimY: *value = 65535; break;
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    default: *value = 1;
  }
  return finish();
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 1;
  return finish();
}

cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return finish(); }

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  snprintf(text, length, "0000:%02x:00.0", device);
  return finish();
}

cudaError_t cudaProfilerStart() { return finish(); }
cudaError_t cudaProfilerStop() { return finish(); }
}
