// What the parts of the stand-in's libcuda know of each other.

#pragma once

#include "gpu.hpp"
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace gpu {

// A place in a stream that others can wait for.
struct Record {
    Clock clock;
    bool done = false;
    // The graph that it was recorded into, where its stream was being captured.
    void *graph = nullptr;
};

struct Event {
    std::shared_ptr<Record> last;
};

// Operations that were recorded instead of run.
struct Graph {
    std::vector<Operation> operations;
};

struct Stream {
    int number;
    bool alive = true;
    Clock clock;
    std::deque<Operation> waiting;
    bool busy = false;
    std::shared_ptr<Graph> capturing;
    bool capture_broken = false;
};

struct Machine {
    // Held while anything below changes; workers wait for work, and hosts for workers, with the condition.
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<Stream *> streams;
    Clock host;
    bool lost = false;
    bool initialised = false;
    uint64_t calls = 0;
    std::map<std::string, uint64_t> report;
};

// Never destroyed: workers outlive everything.
Machine &machine();

// With the mutex held: the operation's order against all that touched the same memory; ends the program where there is none.
void check_order(const Operation &operation, const Clock &clock, int timeline);

// With the mutex held. All bytes between these addresses are live memory.
void join(Clock &into, const Clock &from);

// Waits until a stream has done all that it was given; the host is then as far as it.
Error synchronise(Stream *stream);
Stream *live(void *stream, const char *who);
void start(Stream *stream);

// Memory of the GPU: reserving and freeing are ordered by a stream, or by the host where it is null.
Error reserve(uint64_t *address, size_t bytes, Stream *stream);
Error release(uint64_t address, Stream *stream);
// Fills memory with poison.
void poison(uint64_t address, size_t bytes);
void memory_info(size_t *free, size_t *total, size_t *reserved, size_t *used);

// Whether these bytes of the host are pinned: all, or none; ends the program where it is some.
bool is_pinned(const void *bytes, size_t count, const char *who);

} // namespace gpu
