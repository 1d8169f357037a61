// The device, its context, faults, and the report of what a program asked for.

#include "state.hpp"
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sys/resource.h>
#include <unistd.h>

namespace gpu {

void add_memory(std::map<std::string, uint64_t> &report);

Machine &machine() {
    static Machine *machine = new Machine;
    return *machine;
}

uint64_t setting(const char *name, uint64_t otherwise) {
    const char *text = getenv((std::string("GREEDY_STANDIN_") + name).c_str());
    return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}

void fault(const std::string &what) {
    fprintf(stderr, "stand-in: %s\n", what.c_str());
    fflush(stderr);
    _exit(86);
}

uint32_t draw() {
    static std::atomic<uint32_t> threads{0};
    thread_local std::mt19937 random((uint32_t)setting("SEED", 1) * 1000 + threads++);
    return random();
}

void count(const std::string &what, uint64_t by) {
    std::lock_guard<std::mutex> held(machine().mutex);
    machine().report[what] += by;
}

static int context;
static thread_local void *current;

void *current_context() { return current; }

Error called(const char *function, bool needs_context) {
    static const uint64_t fails = setting("FAIL", 0), lost = setting("LOST", 0);
    Machine &m = machine();
    std::lock_guard<std::mutex> held(m.mutex);
    m.calls++;
    m.report["calls"]++;
    if (lost && m.calls >= lost) {
        m.lost = true;
        m.changed.notify_all();
    }
    if (m.lost) return LAUNCH_FAILED;
    if (m.calls == fails) return UNKNOWN;
    if (!m.initialised) return NOT_INITIALIZED;
    if (needs_context && current != &context) {
        fprintf(stderr, "stand-in: %s without a context on this thread\n", function);
        return INVALID_CONTEXT;
    }
    return OK;
}

__attribute__((destructor)) static void report() {
    const char *path = getenv("GREEDY_STANDIN_REPORT");
    if (!path || !*path) return;
    Machine &m = machine();
    std::unique_lock<std::mutex> held(m.mutex);
    add_memory(m.report);
    std::ofstream out(path);
    out << "{";
    const char *before = "";
    for (auto &[what, number] : m.report) {
        out << before << "\n\"" << what << "\": " << number;
        before = ",";
    }
    out << "\n}\n";
}

} // namespace gpu

using namespace gpu;

API int cuInit(unsigned) {
    machine().initialised = true;
    return called("cuInit", false);
}

API int cuDeviceGet(int *device, int number) {
    if (Error e = called("cuDeviceGet", false)) return e;
    if (number != 0) return INVALID_DEVICE;
    *device = 0;
    return OK;
}

API int cuDeviceGetCount(int *count) {
    *count = 1;
    return called("cuDeviceGetCount", false);
}

API int cuDeviceGetName(char *name, int length, int device) {
    if (Error e = called("cuDeviceGetName", false)) return e;
    if (device != 0) return INVALID_DEVICE;
    snprintf(name, length, "stand-in");
    return OK;
}

API int cuDriverGetVersion(int *version) {
    *version = 13000;
    return called("cuDriverGetVersion", false);
}

// What of an H100 the program may ask for.
API int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (Error e = called("cuDeviceGetAttribute", false)) return e;
    if (device != 0) return INVALID_DEVICE;
    switch (attribute) {
    case 16: *value = (int)setting("MULTIPROCESSORS", 132); return OK;
    case 75: *value = 9; return OK;
    case 76: *value = 0; return OK;
    case 115: *value = 1; return OK;
    default: return INVALID_VALUE;
    }
}

API int cuDevicePrimaryCtxRetain(void **made, int device) {
    if (Error e = called("cuDevicePrimaryCtxRetain", false)) return e;
    if (device != 0) return INVALID_DEVICE;
    *made = &context;
    return OK;
}

API int cuDevicePrimaryCtxRelease_v2(int) { return called("cuDevicePrimaryCtxRelease_v2", false); }

API int cuCtxDestroy_v2(void *) { return called("cuCtxDestroy_v2", false); }

API int cuCtxGetCurrent(void **now) {
    *now = current;
    return called("cuCtxGetCurrent", false);
}

API int cuCtxSetCurrent(void *now) {
    if (Error e = called("cuCtxSetCurrent", false)) return e;
    if (now && now != &context) return INVALID_CONTEXT;
    current = now;
    return OK;
}

API int cuGetErrorString(int error, const char **text) {
    switch (error) {
    case OUT_OF_MEMORY: *text = "out of memory"; return OK;
    case LAUNCH_FAILED: *text = "unspecified launch failure"; return OK;
    case INVALID_VALUE: *text = "invalid argument"; return OK;
    case INVALID_DEVICE: *text = "invalid device ordinal"; return OK;
    case INVALID_CONTEXT: *text = "invalid device context"; return OK;
    case INVALID_IMAGE: *text = "device kernel image is invalid"; return OK;
    case NO_BINARY: *text = "no kernel image is available for execution on the device"; return OK;
    case NOT_FOUND: *text = "named symbol not found"; return OK;
    case CAPTURE_UNSUPPORTED: *text = "operation not permitted when stream is capturing"; return OK;
    case CAPTURE_INVALIDATED: *text = "operation failed due to a previous error during capture"; return OK;
    default: *text = "unknown error"; return OK;
    }
}
