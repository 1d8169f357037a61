// Memory of the GPU, and pinned memory of the host.

#include "state.hpp"
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace gpu {

struct Access {
    uint64_t tick;
    std::string name;
};

struct Allocation {
    uint64_t address;
    size_t bytes;
    unsigned char *base;
    size_t mapped;
    uint64_t number;
    bool freed = false;
    // The last that wrote, and the last on each timeline that read.
    int written_on = -1;
    Access written;
    std::map<int, Access> read;
};

// Never destroyed: workers outlive everything.
static auto &allocations = *new std::map<uint64_t, Allocation>;
static auto &freed = *new std::deque<uint64_t>;
static size_t used, peak, reserved, quarantined;
static bool keeps;
static uint64_t allocated;
static auto &pinned = *new std::map<uintptr_t, size_t>;

static const size_t CHUNK = 32 << 20, QUARANTINE = 256 << 20, PAGE = 4096, FILE_BYTES = 8 << 20;

static size_t limit() {
    static const size_t bytes = setting("MEMORY", 4ull << 30);
    return bytes;
}

static std::string words(const Allocation &one) {
    return std::to_string(one.bytes) + " bytes, reserved as number " + std::to_string(one.number);
}

static Allocation *find(uint64_t address) {
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return nullptr;
    Allocation &one = std::prev(next)->second;
    return address < one.address + std::max<size_t>(one.bytes, 1) ? &one : nullptr;
}

static void check(const Allocation &one, const std::string &who) {
    const unsigned char *first = one.base, *end = here<unsigned char>(one.address) + one.bytes, *last = one.base + one.mapped;
    auto whole = [](unsigned char byte) { return byte == GUARDED; };
    if (!std::all_of(first, (const unsigned char *)here<unsigned char>(one.address), whole))
        fault(who + " wrote before memory of " + words(one));
    if (!std::all_of(end, last, whole)) fault(who + " wrote behind memory of " + words(one));
}

// Pages of poison, which cost nothing before they are written to: copies of a file that holds nothing else.
static unsigned char *poisoned(size_t bytes) {
    static int file = -1;
    if (file < 0) {
        file = memfd_create("poison", 0);
        std::vector<unsigned char> poison(FILE_BYTES, POISON);
        if (file < 0 || write(file, poison.data(), FILE_BYTES) != (ssize_t)FILE_BYTES) return nullptr;
    }
    void *base = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return nullptr;
    for (size_t first = 0; first < bytes; first += FILE_BYTES)
        if (mmap((char *)base + first, std::min(FILE_BYTES, bytes - first), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) == MAP_FAILED)
            return nullptr;
    return (unsigned char *)base;
}

void poison(uint64_t address, size_t bytes) {
    unsigned char *first = here<unsigned char>(address), *end = first + bytes;
    unsigned char *page = (unsigned char *)(((uintptr_t)first + PAGE - 1) / PAGE * PAGE), *last = (unsigned char *)((uintptr_t)end / PAGE * PAGE);
    if (page >= last) {
        memset(first, POISON, bytes);
        return;
    }
    memset(first, POISON, page - first);
    madvise(page, last - page, MADV_DONTNEED);
    memset(last, POISON, end - last);
}

Error reserve(uint64_t *address, size_t bytes, Stream *stream) {
    if (bytes == 0 || !address) return INVALID_VALUE;
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes > limit() || used + rounded > limit()) return OUT_OF_MEMORY;
    Allocation one;
    one.mapped = (rounded + 2 * GUARD + PAGE - 1) / PAGE * PAGE;
    one.base = poisoned(one.mapped);
    if (!one.base) return OUT_OF_MEMORY;
    one.address = (uint64_t)(one.base + GUARD) + FAR;
    one.bytes = bytes;
    one.number = ++allocated;
    memset(one.base, GUARDED, GUARD);
    memset(one.base + GUARD + bytes, GUARDED, one.mapped - GUARD - bytes);
    // Whoever comes first on another stream must be ordered after this.
    if (stream) {
        join(stream->clock, machine().host);
        stream->clock[stream->number]++;
        one.written_on = stream->number;
        one.written = {stream->clock[stream->number], "the reservation"};
    }
    used += rounded;
    peak = std::max(peak, used);
    reserved = std::max(reserved, (used + CHUNK - 1) / CHUNK * CHUNK);
    *address = one.address;
    allocations[one.address] = one;
    machine().report["allocations"]++;
    return OK;
}

// Memory that nothing uses any more stays known as such for a while.
static void retire(uint64_t address) {
    Allocation &one = allocations.at(address);
    check(one, "something");
    poison(address, one.bytes);
    freed.push_back(address);
    quarantined += one.mapped;
    while (quarantined > QUARANTINE && freed.size() > 1) {
        auto at = allocations.find(freed.front());
        freed.pop_front();
        quarantined -= at->second.mapped;
        munmap(at->second.base, at->second.mapped);
        allocations.erase(at);
    }
}

Error release(uint64_t address, Stream *stream) {
    Machine &m = machine();
    auto at = allocations.find(address);
    if (at == allocations.end()) fault("memory is given back that was never reserved, or long ago");
    Allocation &one = at->second;
    if (one.freed) fault("memory is given back twice: " + words(one));
    Operation operation{"giving memory back", {{address, one.bytes, true}}, {}};
    if (stream) {
        join(stream->clock, m.host);
        stream->clock[stream->number]++;
        check_order(operation, stream->clock, stream->number);
    }
    one.freed = true;
    used -= (one.bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    m.report["frees"]++;
    if (stream) {
        // What runs until then may still use it.
        stream->waiting.push_back({operation.name, {}, [address] {
            std::lock_guard<std::mutex> held(machine().mutex);
            retire(address);
        }});
        m.changed.notify_all();
    } else {
        retire(address);
    }
    return OK;
}

void memory_info(size_t *free, size_t *total, size_t *kept, size_t *in_use) {
    size_t held = keeps ? reserved : used;
    if (free) *free = limit() - std::min(limit(), held);
    if (total) *total = limit();
    if (kept) *kept = held;
    if (in_use) *in_use = used;
}

void check_order(const Operation &operation, const Clock &clock, int timeline) {
    auto before = [&](int on, uint64_t tick) {
        auto at = clock.find(on);
        return on == timeline || (at != clock.end() && at->second >= tick);
    };
    for (const Touched &touched : operation.touched) {
        Allocation *one = find(touched.address);
        if (!one) fault(operation.name + " touches what is no memory of the GPU, or was given back long ago");
        if (one->freed) fault(operation.name + " touches memory that was given back: " + words(*one));
        if (touched.address + touched.bytes > one->address + one->bytes)
            fault(operation.name + " touches " + std::to_string(touched.bytes) + " bytes of memory of " + words(*one));
        if (one->written_on >= 0 && !before(one->written_on, one->written.tick))
            fault(operation.name + " is not ordered after " + one->written.name + " on another stream: memory of " + words(*one));
        if (touched.writes)
            for (auto &[on, access] : one->read)
                if (!before(on, access.tick))
                    fault(operation.name + " writes what " + access.name + " on another stream may still read: memory of " + words(*one));
    }
    uint64_t tick = clock.at(timeline);
    for (const Touched &touched : operation.touched) {
        Allocation *one = find(touched.address);
        if (touched.writes) {
            one->written_on = timeline;
            one->written = {tick, operation.name};
            one->read.clear();
        } else {
            one->read[timeline] = {tick, operation.name};
        }
    }
}

size_t bytes_from(uint64_t address, const std::string &who) {
    std::lock_guard<std::mutex> held(machine().mutex);
    Allocation *one = find(address);
    if (!one) fault(who + " was given what is no memory of the GPU");
    return one->address + one->bytes - address;
}

void check_guards(uint64_t address, const std::string &who) {
    std::lock_guard<std::mutex> held(machine().mutex);
    if (Allocation *one = find(address)) check(*one, who);
}

bool is_pinned(const void *bytes, size_t count, const char *who) {
    uintptr_t first = (uintptr_t)bytes;
    auto next = pinned.upper_bound(first);
    if (next != pinned.begin()) {
        auto [begin, length] = *std::prev(next);
        if (first < begin + length) {
            if (first + count > begin + length) fault(std::string(who) + " goes beyond the end of pinned memory");
            return true;
        }
    }
    if (next != pinned.end() && first + count > next->first) fault(std::string(who) + " reaches into pinned memory");
    return false;
}

} // namespace gpu

using namespace gpu;

API int cuMemHostAlloc(void **bytes, size_t count, unsigned) {
    if (Error e = called("cuMemHostAlloc")) return e;
    if (!bytes || count == 0) return INVALID_VALUE;
    std::lock_guard<std::mutex> held(machine().mutex);
    *bytes = aligned_alloc(4096, (count + 4095) / 4096 * 4096);
    if (!*bytes) return OUT_OF_MEMORY;
    memset(*bytes, POISON, count);
    pinned[(uintptr_t)*bytes] = count;
    return OK;
}

API int cuMemFreeHost(void *bytes) {
    if (Error e = called("cuMemFreeHost")) return e;
    std::lock_guard<std::mutex> held(machine().mutex);
    auto at = pinned.find((uintptr_t)bytes);
    if (at == pinned.end()) fault("pinned memory is freed that is none");
    // A copy that is still under way finds other bytes. They are never used again, so that it finds any.
    memset(bytes, POISON, at->second);
    pinned.erase(at);
    return OK;
}

API int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (Error e = called("cuMemAlloc_v2")) return e;
    std::lock_guard<std::mutex> held(machine().mutex);
    return reserve(address, bytes, nullptr);
}

API int cuMemFree_v2(uint64_t address) {
    if (Error e = called("cuMemFree_v2")) return e;
    for (Stream *stream : machine().streams)
        if (stream->alive) synchronise(stream);
    std::lock_guard<std::mutex> held(machine().mutex);
    return release(address, nullptr);
}

API int cuMemAllocAsync(uint64_t *address, size_t bytes, void *on) {
    if (Error e = called("cuMemAllocAsync")) return e;
    Stream *stream = live(on, "cuMemAllocAsync");
    std::lock_guard<std::mutex> held(machine().mutex);
    if (stream->capturing) {
        stream->capture_broken = true;
        return CAPTURE_UNSUPPORTED;
    }
    return reserve(address, bytes, stream);
}

API int cuMemFreeAsync(uint64_t address, void *on) {
    if (Error e = called("cuMemFreeAsync")) return e;
    Stream *stream = live(on, "cuMemFreeAsync");
    std::lock_guard<std::mutex> held(machine().mutex);
    if (stream->capturing) {
        stream->capture_broken = true;
        return CAPTURE_UNSUPPORTED;
    }
    return release(address, stream);
}

API int cuMemGetInfo_v2(size_t *free, size_t *total) {
    if (Error e = called("cuMemGetInfo_v2")) return e;
    std::lock_guard<std::mutex> held(machine().mutex);
    memory_info(free, total, nullptr, nullptr);
    return OK;
}

API int cuDeviceGetDefaultMemPool(void **pool, int device) {
    if (Error e = called("cuDeviceGetDefaultMemPool", false)) return e;
    if (device != 0) return INVALID_DEVICE;
    *pool = &allocations;
    return OK;
}

API int cuMemPoolSetAttribute(void *pool, int attribute, void *value) {
    if (Error e = called("cuMemPoolSetAttribute", false)) return e;
    const int RELEASE_THRESHOLD = 4;
    if (pool != &allocations || attribute != RELEASE_THRESHOLD) return INVALID_VALUE;
    keeps = *(uint64_t *)value > 0;
    return OK;
}

API int cuMemPoolGetAttribute(void *pool, int attribute, void *value) {
    if (Error e = called("cuMemPoolGetAttribute", false)) return e;
    const int RESERVED = 5, USED = 7;
    if (pool != &allocations || (attribute != RESERVED && attribute != USED)) return INVALID_VALUE;
    std::lock_guard<std::mutex> held(machine().mutex);
    size_t kept, in_use;
    memory_info(nullptr, nullptr, &kept, &in_use);
    *(uint64_t *)value = attribute == RESERVED ? kept : in_use;
    return OK;
}

namespace gpu {

// For the report.
void add_memory(std::map<std::string, uint64_t> &report) {
    for (auto &[address, one] : allocations)
        if (!one.freed) {
            report["live allocations"]++;
            report["live bytes"] += one.bytes;
            check(one, "something");
        }
    report["peak bytes"] = peak;
    report["pinned allocations"] = pinned.size();
}

} // namespace gpu
