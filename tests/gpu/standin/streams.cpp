// Streams that run on threads of their own, events, copies, and graphs.

#include "state.hpp"
#include <algorithm>
#include <chrono>
#include <cstring>

namespace gpu {

void join(Clock &into, const Clock &from) {
    for (auto [timeline, tick] : from) into[timeline] = std::max(into[timeline], tick);
}

Stream *live(void *given, const char *who) {
    Stream *stream = (Stream *)given;
    std::lock_guard<std::mutex> held(machine().mutex);
    auto &all = machine().streams;
    if (std::find(all.begin(), all.end(), stream) == all.end()) fault(std::string(who) + " on what is no stream");
    if (!stream->alive) fault(std::string(who) + " on a stream that was destroyed");
    return stream;
}

// Now and then a stream falls behind the others.
static void linger() {
    static const uint64_t longest = setting("DELAY", 300);
    uint32_t number = draw();
    if (longest > 0 && number % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(number / 8 % longest));
}

static void work(Stream *stream) {
    Machine &m = machine();
    std::unique_lock<std::mutex> held(m.mutex);
    for (;;) {
        m.changed.wait(held, [&] { return !stream->waiting.empty() || !stream->alive; });
        if (stream->waiting.empty()) return;
        Operation operation = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        stream->busy = true;
        held.unlock();
        linger();
        // A lost device does nothing more, but nobody waits for it for ever.
        if (operation.run) operation.run();
        held.lock();
        stream->busy = false;
        m.changed.notify_all();
    }
}

void start(Stream *stream) { std::thread(work, stream).detach(); }

// With the mutex held: the operation in a stream, behind all that came before. `waits` is what the host must run unlocked.
static void enqueue(Stream *stream, Operation operation) {
    Machine &m = machine();
    join(stream->clock, m.host);
    stream->clock[stream->number]++;
    check_order(operation, stream->clock, stream->number);
    for (const Touched &touched : operation.touched)
        if (touched.writes) operation.run = [run = std::move(operation.run), address = touched.address, name = operation.name] {
            run();
            check_guards(address, name);
        };
    auto run = std::move(operation.run);
    operation.run = [run = std::move(run)] {
        if (!machine().lost) run();
    };
    stream->waiting.push_back(std::move(operation));
    m.changed.notify_all();
}

Error submit(Stream *stream, Operation operation) {
    live(stream, operation.name.c_str());
    std::lock_guard<std::mutex> held(machine().mutex);
    if (stream->capturing) {
        stream->capturing->operations.push_back(std::move(operation));
        return OK;
    }
    enqueue(stream, std::move(operation));
    return OK;
}

// Breaks a capture where something is asked for that must not be.
static bool breaks_capture(Stream *stream) {
    if (!stream->capturing) return false;
    stream->capture_broken = true;
    return true;
}

Error synchronise(Stream *stream) {
    Machine &m = machine();
    std::unique_lock<std::mutex> held(m.mutex);
    if (breaks_capture(stream)) return CAPTURE_UNSUPPORTED;
    Clock reached = stream->clock;
    m.changed.wait(held, [&] { return (stream->waiting.empty() && !stream->busy) || m.lost; });
    join(m.host, reached);
    return m.lost ? LAUNCH_FAILED : OK;
}

} // namespace gpu

using namespace gpu;

API int cuStreamCreate(void **stream, unsigned) {
    if (Error e = called("cuStreamCreate")) return e;
    Machine &m = machine();
    std::lock_guard<std::mutex> held(m.mutex);
    Stream *made = new Stream;
    made->number = (int)m.streams.size();
    made->clock[made->number] = 1;
    m.streams.push_back(made);
    m.report["streams"]++;
    start(made);
    *stream = made;
    return OK;
}

API int cuStreamDestroy_v2(void *given) {
    if (Error e = called("cuStreamDestroy_v2")) return e;
    Stream *stream = live(given, "cuStreamDestroy");
    std::lock_guard<std::mutex> held(machine().mutex);
    stream->alive = false;
    machine().report["streams destroyed"]++;
    machine().changed.notify_all();
    return OK;
}

API int cuStreamSynchronize(void *stream) {
    if (Error e = called("cuStreamSynchronize")) return e;
    count("waits of the host");
    return synchronise(live(stream, "cuStreamSynchronize"));
}

API int cuCtxSynchronize() {
    if (Error e = called("cuCtxSynchronize")) return e;
    count("waits of the host");
    std::vector<Stream *> all;
    {
        std::lock_guard<std::mutex> held(machine().mutex);
        all = machine().streams;
    }
    for (Stream *stream : all)
        if (stream->alive)
            if (Error e = synchronise(stream)) return e;
    return OK;
}

API int cuEventCreate(void **event, unsigned) {
    if (Error e = called("cuEventCreate")) return e;
    count("events");
    *event = new Event;
    return OK;
}

API int cuEventDestroy_v2(void *event) {
    if (Error e = called("cuEventDestroy_v2")) return e;
    count("events destroyed");
    delete (Event *)event;
    return OK;
}

API int cuEventRecord(void *event, void *on) {
    if (Error e = called("cuEventRecord")) return e;
    Stream *stream = live(on, "cuEventRecord");
    Machine &m = machine();
    std::lock_guard<std::mutex> held(m.mutex);
    auto record = std::make_shared<Record>();
    join(stream->clock, m.host);
    stream->clock[stream->number]++;
    record->clock = stream->clock;
    ((Event *)event)->last = record;
    if (stream->capturing) {
        record->graph = stream->capturing.get();
        record->done = true;
        return OK;
    }
    stream->waiting.push_back({"an event", {}, [record] {
        std::lock_guard<std::mutex> held(machine().mutex);
        record->done = true;
        machine().changed.notify_all();
    }});
    m.changed.notify_all();
    return OK;
}

API int cuEventSynchronize(void *event) {
    if (Error e = called("cuEventSynchronize")) return e;
    Machine &m = machine();
    std::unique_lock<std::mutex> held(m.mutex);
    auto record = ((Event *)event)->last;
    if (!record) return OK;
    if (record->graph) return CAPTURE_UNSUPPORTED;
    m.changed.wait(held, [&] { return record->done || m.lost; });
    join(m.host, record->clock);
    return m.lost ? LAUNCH_FAILED : OK;
}

API int cuStreamWaitEvent(void *on, void *event, unsigned) {
    if (Error e = called("cuStreamWaitEvent")) return e;
    Stream *stream = live(on, "cuStreamWaitEvent");
    Machine &m = machine();
    std::lock_guard<std::mutex> held(m.mutex);
    auto record = ((Event *)event)->last;
    if (!record) return OK;
    if (stream->capturing.get() != record->graph) {
        if (stream->capturing) stream->capture_broken = true;
        return CAPTURE_ISOLATION;
    }
    join(stream->clock, record->clock);
    if (stream->capturing) return OK;
    stream->waiting.push_back({"a wait", {}, [record] {
        std::unique_lock<std::mutex> held(machine().mutex);
        machine().changed.wait(held, [&] { return record->done || machine().lost; });
    }});
    m.changed.notify_all();
    return OK;
}

static uint64_t sum_of(const void *bytes, size_t count) {
    uint64_t sum = 1469598103934665603ull;
    for (size_t at = 0; at < count; at++) sum = (sum ^ ((const unsigned char *)bytes)[at]) * 1099511628211ull;
    return sum;
}

API int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *on) {
    if (Error e = called("cuMemcpyHtoDAsync_v2")) return e;
    Stream *stream = live(on, "a copy to the GPU");
    bool is_ours;
    {
        std::lock_guard<std::mutex> held(machine().mutex);
        is_ours = is_pinned(from, bytes, "a copy to the GPU");
        machine().report[is_ours ? "pinned bytes to the GPU" : "pageable bytes to the GPU"] += bytes;
        if (!is_ours && breaks_capture(stream)) return CAPTURE_UNSUPPORTED;
    }
    if (is_ours) {
        uint64_t sum = sum_of(from, bytes);
        return submit(stream, {"a copy to the GPU", {{to, bytes, true}}, [=] {
            if (sum_of(from, bytes) != sum) fault("pinned memory was changed or freed before it was copied to the GPU");
            memcpy(here<char>(to), from, bytes);
        }});
    }
    // The driver has copied it before it returns.
    auto held = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
    return submit(stream, {"a copy to the GPU", {{to, bytes, true}}, [=] { memcpy(here<char>(to), held->data(), bytes); }});
}

API int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *on) {
    if (Error e = called("cuMemcpyDtoHAsync_v2")) return e;
    Stream *stream = live(on, "a copy from the GPU");
    bool is_ours;
    {
        std::lock_guard<std::mutex> held(machine().mutex);
        is_ours = is_pinned(to, bytes, "a copy from the GPU");
        machine().report[is_ours ? "bytes to pinned memory" : "bytes to pageable memory"] += bytes;
        if (!is_ours && breaks_capture(stream)) return CAPTURE_UNSUPPORTED;
    }
    Error e = submit(stream, {"a copy from the GPU", {{from, bytes, false}}, [=] { memcpy(to, here<char>(from), bytes); }});
    if (e || is_ours) return e;
    count("waits of the host");
    return synchronise(stream);
}

static int copy(uint64_t to, uint64_t from, size_t bytes, void *on) {
    Stream *stream = live(on, "a copy on the GPU");
    count("copies on the GPU");
    return submit(stream, {"a copy on the GPU", {{from, bytes, false}, {to, bytes, true}}, [=] {
        memmove(here<char>(to), here<char>(from), bytes);
    }});
}

API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *on) {
    if (Error e = called("cuMemcpyDtoDAsync_v2")) return e;
    return copy(to, from, bytes, on);
}

API int cuMemcpyPeerAsync(uint64_t to, void *, uint64_t from, void *, size_t bytes, void *on) {
    if (Error e = called("cuMemcpyPeerAsync")) return e;
    return copy(to, from, bytes, on);
}

API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *on) {
    if (Error e = called("cuMemsetD8Async")) return e;
    Stream *stream = live(on, "filling memory");
    count("fills");
    return submit(stream, {"filling memory", {{to, bytes, true}}, [=] {
        if (value == POISON) poison(to, bytes);
        else memset(here<char>(to), value, bytes);
    }});
}

API int cuStreamIsCapturing(void *stream, int *status) {
    if (Error e = called("cuStreamIsCapturing")) return e;
    Stream *own = live(stream, "cuStreamIsCapturing");
    *status = !own->capturing ? 0 : own->capture_broken ? 2 : 1;
    return OK;
}

API int cuStreamBeginCapture_v2(void *on, int) {
    if (Error e = called("cuStreamBeginCapture_v2")) return e;
    Stream *stream = live(on, "cuStreamBeginCapture");
    std::lock_guard<std::mutex> held(machine().mutex);
    if (stream->capturing) return INVALID_VALUE;
    stream->capturing = std::make_shared<Graph>();
    stream->capture_broken = false;
    return OK;
}

API int cuStreamEndCapture(void *on, void **graph) {
    if (Error e = called("cuStreamEndCapture")) return e;
    Stream *stream = live(on, "cuStreamEndCapture");
    std::lock_guard<std::mutex> held(machine().mutex);
    if (!stream->capturing) return INVALID_VALUE;
    auto made = std::move(stream->capturing);
    stream->capturing = nullptr;
    *graph = nullptr;
    if (stream->capture_broken) return CAPTURE_INVALIDATED;
    *graph = new std::shared_ptr<Graph>(made);
    return OK;
}

API int cuGraphInstantiateWithFlags(void **ready, void *graph, unsigned long long) {
    if (Error e = called("cuGraphInstantiateWithFlags")) return e;
    auto &recorded = *(std::shared_ptr<Graph> *)graph;
    *ready = new std::shared_ptr<Graph>(recorded);
    count("graphs");
    std::lock_guard<std::mutex> held(machine().mutex);
    uint64_t &largest = machine().report["operations of the largest graph"];
    largest = std::max<uint64_t>(largest, recorded->operations.size());
    if (getenv("GREEDY_STANDIN_LIST") && largest == recorded->operations.size())
        for (const Operation &operation : recorded->operations) fprintf(stderr, "stand-in: recorded %s\n", operation.name.c_str());
    return OK;
}

API int cuGraphUpload(void *, void *) { return called("cuGraphUpload"); }

API int cuGraphLaunch(void *graph, void *on) {
    if (Error e = called("cuGraphLaunch")) return e;
    Stream *stream = live(on, "cuGraphLaunch");
    count("graph launches");
    std::lock_guard<std::mutex> held(machine().mutex);
    if (stream->capturing) return CAPTURE_UNSUPPORTED;
    for (const Operation &operation : (*(std::shared_ptr<Graph> *)graph)->operations) enqueue(stream, operation);
    return OK;
}

API int cuGraphDestroy(void *graph) {
    if (Error e = called("cuGraphDestroy")) return e;
    delete (std::shared_ptr<Graph> *)graph;
    return OK;
}

API int cuGraphExecDestroy(void *graph) {
    if (Error e = called("cuGraphExecDestroy")) return e;
    count("graphs destroyed");
    delete (std::shared_ptr<Graph> *)graph;
    return OK;
}
