// Breaks the rules that the stand-in watches, each in a process of its own, and sees whether it is told. Prints one line for
// each rule that went unnoticed, and for what is allowed and was not let pass.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void **, int);
int cuCtxSetCurrent(void *);
int cuStreamCreate(void **, unsigned);
int cuStreamDestroy_v2(void *);
int cuStreamSynchronize(void *);
int cuStreamWaitEvent(void *, void *, unsigned);
int cuStreamBeginCapture_v2(void *, int);
int cuStreamEndCapture(void *, void **);
int cuGraphInstantiateWithFlags(void **, void *, unsigned long long);
int cuGraphLaunch(void *, void *);
int cuEventCreate(void **, unsigned);
int cuEventRecord(void *, void *);
int cuEventSynchronize(void *);
int cuMemAllocAsync(uint64_t *, size_t, void *);
int cuMemFreeAsync(uint64_t, void *);
int cuMemHostAlloc(void **, size_t, unsigned);
int cuMemsetD8Async(uint64_t, unsigned char, size_t, void *);
int cuMemcpyHtoDAsync_v2(uint64_t, const void *, size_t, void *);
int cuMemcpyDtoHAsync_v2(void *, uint64_t, size_t, void *);
int cuMemcpyDtoDAsync_v2(uint64_t, uint64_t, size_t, void *);
}

static void *one, *other, *event;
static uint64_t memory;
static char *pinned;
static const size_t BYTES = 100000;

static void start() {
    void *context;
    cuInit(0);
    cuDevicePrimaryCtxRetain(&context, 0);
    cuCtxSetCurrent(context);
    cuStreamCreate(&one, 1);
    cuStreamCreate(&other, 1);
    cuEventCreate(&event, 2);
    cuMemAllocAsync(&memory, BYTES, one);
    cuMemsetD8Async(memory, 1, BYTES, one);
    cuMemHostAlloc((void **)&pinned, BYTES, 0);
    memset(pinned, 7, BYTES);
}

static int wrong = 0;

// Runs a function in another process, which must end so: 86 where a rule is broken, else what the function gives.
static void expect(const char *what, int code, std::function<int()> f) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        freopen("/dev/null", "w", stderr);
        start();
        int given = f();
        cuStreamSynchronize(one);
        cuStreamSynchronize(other);
        _exit(given);
    }
    int state;
    waitpid(child, &state, 0);
    int found = WIFEXITED(state) ? WEXITSTATUS(state) : 1000 + state;
    if (found == code) return;
    printf("%s: exit code %d, not %d\n", what, found, code);
    wrong = 1;
}

int main() {
    const int BROKEN = 86, CAPTURING = 900 % 256, BROKEN_CAPTURE = 901 % 256, NO_CONTEXT = 201;
    auto order = [] { cuEventRecord(event, one), cuStreamWaitEvent(other, event, 0); };
    expect("reading what another stream writes", BROKEN, [] { return cuMemcpyDtoHAsync_v2(pinned, memory, BYTES, other); });
    expect("reading it after an event", 0, [=] { return order(), cuMemcpyDtoHAsync_v2(pinned, memory, BYTES, other); });
    expect("reading it after the host waited", 0, [] { return cuStreamSynchronize(one), cuMemcpyDtoHAsync_v2(pinned, memory, BYTES, other); });
    expect("writing what another stream reads", BROKEN, [=] {
        order();
        cuMemcpyDtoHAsync_v2(pinned, memory, BYTES, other);
        return cuMemsetD8Async(memory, 2, BYTES, one);
    });
    expect("giving back what another stream reads", BROKEN, [=] {
        order();
        cuMemcpyDtoHAsync_v2(pinned, memory, BYTES, other);
        return cuMemFreeAsync(memory, one);
    });
    expect("using what was given back", BROKEN, [] { return cuMemFreeAsync(memory, one), cuMemsetD8Async(memory, 2, 1, one); });
    expect("giving back twice", BROKEN, [] { return cuMemFreeAsync(memory, one), cuMemFreeAsync(memory, one); });
    expect("going beyond the end", BROKEN, [] { return cuMemsetD8Async(memory, 2, BYTES + 1, one); });
    expect("beginning before the beginning", BROKEN, [] { return cuMemsetD8Async(memory - 1, 2, 1, one); });
    expect("an address of the host", BROKEN, [] { return cuMemsetD8Async((uint64_t)pinned, 2, 1, one); });
    expect("changing pinned memory before it is copied", BROKEN, [] {
        for (int at = 0; at < 50; at++) {
            cuMemcpyHtoDAsync_v2(memory, pinned, BYTES, one);
            memset(pinned, at, BYTES);
        }
        return 0;
    });
    expect("changing it afterwards", 0, [] {
        for (int at = 0; at < 50; at++) {
            cuMemcpyHtoDAsync_v2(memory, pinned, BYTES, one);
            cuEventRecord(event, one);
            cuEventSynchronize(event);
            memset(pinned, at, BYTES);
        }
        return 0;
    });
    expect("copying beyond pinned memory", BROKEN, [] { return cuMemcpyHtoDAsync_v2(memory, pinned + 1, BYTES, one); });
    expect("pageable memory that is changed after its copy was asked for", 0, [] {
        char own[1000], back[1000];
        memset(own, 3, sizeof own);
        cuMemcpyHtoDAsync_v2(memory, own, sizeof own, one);
        memset(own, 4, sizeof own);
        cuMemcpyDtoHAsync_v2(back, memory, sizeof back, one);
        return back[0] == 3 && back[999] == 3 ? 0 : 1;
    });
    expect("fresh memory that holds a number", 0, [] {
        uint64_t fresh;
        unsigned char back[1000];
        cuMemAllocAsync(&fresh, sizeof back, one);
        cuMemcpyDtoHAsync_v2(back, fresh, sizeof back, one);
        return back[0] == 0xff && back[999] == 0xff ? 0 : 1;
    });
    expect("a stream that was destroyed", BROKEN, [] { return cuStreamDestroy_v2(other), cuMemsetD8Async(memory, 2, 1, other); });
    expect("a thread without a context", NO_CONTEXT, [] { return cuCtxSetCurrent(nullptr), cuMemsetD8Async(memory, 2, 1, one); });
    expect("reserving while a stream is captured", CAPTURING, [] {
        uint64_t fresh;
        return cuStreamBeginCapture_v2(one, 1), cuMemAllocAsync(&fresh, 1, one) % 256;
    });
    expect("a capture that was broken", BROKEN_CAPTURE, [] {
        void *graph;
        cuStreamBeginCapture_v2(one, 1);
        cuStreamSynchronize(one);
        return cuStreamEndCapture(one, &graph) % 256;
    });
    expect("a graph that is launched", 0, [] {
        void *graph, *ready;
        unsigned char back;
        cuStreamBeginCapture_v2(one, 1);
        cuMemcpyDtoDAsync_v2(memory, memory + 1, 1, one);
        cuMemsetD8Async(memory + 1, 9, 1, one);
        cuStreamEndCapture(one, &graph);
        cuGraphInstantiateWithFlags(&ready, graph, 0);
        cuMemcpyDtoHAsync_v2(&back, memory, 1, one);
        if (back != 1) return 1;
        cuGraphLaunch(ready, one), cuGraphLaunch(ready, one);
        cuMemcpyDtoHAsync_v2(&back, memory, 1, one);
        return back == 9 ? 0 : 1;
    });
    return wrong;
}
