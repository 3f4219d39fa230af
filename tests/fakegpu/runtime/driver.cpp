// The CUDA driver, libcuda: which devices have a context, launches, and success for everything else.
#include "state.h"

#include <cstring>

static int succeed(...) { return 0; }

extern "C" {

// PyTorch's pinned allocator asks this, so as not to create a context on a device that the process does not use.
CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* is_active) {
  *flags = 0;
  *is_active = (int)counts.contexts[device];
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  create_context(device);
  *context = reinterpret_cast<CUcontext>(uintptr_t(device) + 1);
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  uintptr_t device = current_device();
  *context = counts.contexts[device] ? reinterpret_cast<CUcontext>(device + 1) : nullptr;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
  if (context) set_current_device(int(reinterpret_cast<uintptr_t>(context) - 1));
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int number) {
  *device = number;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  return (CUresult)cudaDeviceGetAttribute(value, (cudaDeviceAttr)attribute, device);
}

CUresult cuDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = cudaGetErrorString((cudaError_t)error);
  return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int, size_t) {
  *blocks = 8;
  return CUDA_SUCCESS;
}

// PyTorch compiles a few kernels when they are first used, and launches them by the driver.
CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream stream,
                        void**, void**) {
  count_launch(nullptr, stream);
  return (CUresult)finish();
}

CUresult cuLaunchCooperativeKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                   CUstream stream, void**) {
  count_launch(nullptr, stream);
  return (CUresult)finish();
}

// --- Functions by name. There is none of which PyTorch needs more than success. ---

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = reinterpret_cast<void*>(succeed);
  if (strcmp(name, "cuDevicePrimaryCtxGetState") == 0) *function = reinterpret_cast<void*>(cuDevicePrimaryCtxGetState);
  if (strcmp(name, "cuCtxGetCurrent") == 0) *function = reinterpret_cast<void*>(cuCtxGetCurrent);
  if (strcmp(name, "cuCtxSetCurrent") == 0) *function = reinterpret_cast<void*>(cuCtxSetCurrent);
  if (strcmp(name, "cuDeviceGet") == 0) *function = reinterpret_cast<void*>(cuDeviceGet);
  if (strcmp(name, "cuGetErrorString") == 0) *function = reinterpret_cast<void*>(cuGetErrorString);
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

}
