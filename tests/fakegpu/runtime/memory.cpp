// Device memory, which is a range of host memory; pinned memory; copies.
#include "state.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>

static std::mutex mutex;

// --- Device memory ---
//
// All devices share one range of addresses, of which each has an equal part. Python sees the whole range as one CPU
// tensor, so that the CPU's view of a device tensor is a strided view into it. Pages are allocated when first touched.

struct Arena {
  char* start;
  size_t bytes_per_device;
  size_t bytes;
};

static Arena reserve() {
  constexpr size_t kPage = 2 << 20;
  // Twice the memory of the device: that the free part is in pieces must not matter, as on a GPU with virtual memory.
  size_t per_device = (2 * settings().device_bytes + kPage - 1) / kPage * kPage;
  size_t bytes = per_device * (settings().devices ? settings().devices : 1);
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) {
    fprintf(stderr, "fake GPU: cannot reserve %zu bytes of addresses\n", bytes);
    abort();
  }
  return {static_cast<char*>(start), per_device, bytes};
}

static const Arena& arena() {
  static const Arena reserved = reserve();
  return reserved;
}

// Never destroyed: PyTorch frees memory when the process ends, after the destructors of statics have run.
static auto& taken = *new std::map<char*, size_t>();   // the blocks of device memory in use, of all devices
static auto& pinned = *new std::map<char*, size_t>();  // the blocks of pinned memory
static size_t all_pinned = 0;

static char* first_fit(int device, size_t bytes) {
  char* candidate = arena().start + device * arena().bytes_per_device;
  char* end = candidate + arena().bytes_per_device;
  for (auto block = taken.lower_bound(candidate); block != taken.end() && block->first < end; ++block) {
    if (candidate + bytes <= block->first) return candidate;
    candidate = block->first + block->second;
  }
  return candidate + bytes <= end ? candidate : nullptr;
}

static cudaError_t allocate(void** pointer, size_t bytes) {
  int device = current_device();
  create_context(device);
  if (device_is_dead()) return finish();
  std::lock_guard<std::mutex> guard(mutex);
  if (counts.allocated_bytes[device] + bytes > settings().device_bytes) return finish(cudaErrorMemoryAllocation);
  size_t rounded = (bytes + 511) / 512 * 512;
  char* block = first_fit(device, rounded ? rounded : 512);
  if (!block) return finish(cudaErrorMemoryAllocation);
  taken[block] = rounded ? rounded : 512;
  counts.allocated_bytes[device] += taken[block];
  counts.allocations[device]++;
  if (settings().garbage) memset(block, 0xFF, bytes);
  *pointer = block;
  return finish();
}

static cudaError_t release(void* pointer) {
  if (!pointer) return finish();
  std::lock_guard<std::mutex> guard(mutex);
  auto block = taken.find(static_cast<char*>(pointer));
  if (block == taken.end()) return finish(cudaErrorInvalidValue);
  int device = (block->first - arena().start) / arena().bytes_per_device;
  counts.allocated_bytes[device] -= block->second;
  // Whole pages are given back to the system; they read as zeros if they are touched again.
  uintptr_t first = (reinterpret_cast<uintptr_t>(block->first) + 4095) & ~uintptr_t(4095);
  uintptr_t end = reinterpret_cast<uintptr_t>(block->first + block->second) & ~uintptr_t(4095);
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
  taken.erase(block);
  return finish();
}

// --- Pinned memory ---

static cudaError_t allocate_pinned(void** pointer, size_t bytes) {
  int device = current_device();
  create_context(device);
  if (device_is_dead()) return finish();
  std::lock_guard<std::mutex> guard(mutex);
  if (bytes > settings().pinned_bytes - all_pinned) return finish(cudaErrorMemoryAllocation);
  void* block = nullptr;
  if (posix_memalign(&block, 4096, bytes ? bytes : 1)) return finish(cudaErrorMemoryAllocation);
  pinned[static_cast<char*>(block)] = bytes;
  all_pinned += bytes;
  counts.pinned_allocations[device]++;
  *pointer = block;
  return finish();
}

static cudaError_t forget_pinned(void* pointer, bool is_ours) {
  std::lock_guard<std::mutex> guard(mutex);
  auto block = pinned.find(static_cast<char*>(pointer));
  if (block == pinned.end()) return finish(cudaErrorInvalidValue);
  all_pinned -= block->second;
  pinned.erase(block);
  if (is_ours) free(pointer);
  return finish();
}

Memory memory_at(const void* pointer) {
  char* address = const_cast<char*>(static_cast<const char*>(pointer));
  if (address >= arena().start && address < arena().start + arena().bytes) {
    return {kDevice, (int)((address - arena().start) / arena().bytes_per_device)};
  }
  std::lock_guard<std::mutex> guard(mutex);
  auto next = pinned.upper_bound(address);
  if (next == pinned.begin()) return {kPageable, -1};
  auto block = std::prev(next);
  return {address < block->first + block->second ? kPinned : kPageable, 0};
}

// --- Copies ---

static CopyKind kind_of_copy(const void* to, const void* from) {
  MemoryKind target = memory_at(to).kind;
  MemoryKind source = memory_at(from).kind;
  if (target == kDevice && source == kDevice) return kDeviceToDevice;
  if (target == kDevice) return source == kPinned ? kPinnedToDevice : kPageableToDevice;
  if (source == kDevice) return target == kPinned ? kDeviceToPinned : kDeviceToPageable;
  return kHostToHost;
}

static void copy(void* to, const void* from, size_t bytes) {
  create_context(current_device());
  CopyKind kind = kind_of_copy(to, from);
  counts.copies[kind]++;
  counts.copied_bytes[kind] += bytes;
  memmove(to, from, bytes);
}

extern "C" {

// The range of device memory, for Python.
void fakegpu_device_memory(void** start, size_t* bytes) {
  *start = arena().start;
  *bytes = arena().bytes;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) { return allocate(pointer, bytes); }
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) { return allocate(pointer, bytes); }
cudaError_t cudaFree(void* pointer) { return release(pointer); }
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return release(pointer); }
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) { return allocate_pinned(pointer, bytes); }
cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return allocate_pinned(pointer, bytes); }
cudaError_t cudaFreeHost(void* pointer) { return forget_pinned(pointer, true); }
cudaError_t cudaHostUnregister(void* pointer) { return forget_pinned(pointer, false); }

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  create_context(current_device());
  std::lock_guard<std::mutex> guard(mutex);
  if (bytes > settings().pinned_bytes - all_pinned) return finish(cudaErrorMemoryAllocation);
  pinned[static_cast<char*>(pointer)] = bytes;
  all_pinned += bytes;
  counts.pinned_allocations[current_device()]++;
  return finish();
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  create_context(current_device());
  *total_bytes = settings().device_bytes;
  *free_bytes = *total_bytes - counts.allocated_bytes[current_device()];
  return finish();
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  memset(attributes, 0, sizeof *attributes);
  Memory memory = memory_at(pointer);
  attributes->device = memory.device;
  attributes->type = cudaMemoryTypeUnregistered;
  if (memory.kind == kPageable) return finish();
  attributes->type = memory.kind == kPinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  attributes->devicePointer = const_cast<void*>(pointer);
  attributes->hostPointer = memory.kind == kPinned ? const_cast<void*>(pointer) : nullptr;
  return finish();
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  copy(to, from, bytes);
  return finish();
}

cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t) {
  copy(to, from, bytes);
  return finish();
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (any_capture()) return refuse_in_capture(nullptr);
  copy(to, from, bytes);
  return synchronize(counts.blocking_copies);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                              cudaMemcpyKind, cudaStream_t) {
  for (size_t row = 0; row < height; row++) {
    copy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
  }
  return finish();
}

cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return finish(); }

cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  counts.memsets++;
  memset(pointer, value, bytes);
  return finish();
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(pointer, value, bytes);
}

// --- Memory pools of the driver, which PyTorch uses with backend:cudaMallocAsync only ---

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = reinterpret_cast<cudaMemPool_t>(1);
  return finish();
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return finish(); }
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const cudaMemAccessDesc*, size_t) { return finish(); }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return finish(); }

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  *static_cast<uint64_t*>(value) = 0;
  return finish();
}
}
