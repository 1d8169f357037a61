// What the stand-in's libraries share: a GPU that is not there, and the rules that programs must keep with it.
//
// Streams run on threads of their own, with delays that are drawn. Memory has guards and is poison at first. Every
// operation says what it reads and writes; a vector clock of each stream tells whether two operations are ordered by a
// stream, an event or a wait of the host. A program that breaks a rule is ended with the rule's name: what the real
// libraries would let pass, or punish elsewhere and later, is found where it happens.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace gpu {

// Addresses on the GPU are those of the host plus this: the host cannot follow them.
const uint64_t FAR = 1ull << 62;
const size_t ALIGNMENT = 256, GUARD = 512;
const unsigned char POISON = 0xff, GUARDED = 0xd7;

enum Error {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_HANDLE = 400, NOT_FOUND = 500, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903, CAPTURE_ISOLATION = 905, CAPTURE_IMPLICIT = 906, UNKNOWN = 999
};

// How far each timeline (a stream) is known to have come.
using Clock = std::map<int, uint64_t>;

// Bytes on the GPU that an operation reads or writes.
struct Touched {
    uint64_t address;
    size_t bytes;
    bool writes;
};

// What a stream does: bytes that it touches, and what it does to them once its turn has come.
struct Operation {
    std::string name;
    std::vector<Touched> touched;
    std::function<void()> run;
};

struct Stream;

// Ends the program: it broke a rule of the libraries.
[[noreturn]] void fault(const std::string &what);

// Counts a call of the libraries; says what it must return at once. `needs_context`: whether a context must be current.
Error called(const char *function, bool needs_context = true);

// The context that is current on this thread, or null.
void *current_context();

// Hands an operation to a stream, which must be a live one, or to the graph that the stream is being captured into. Ends
// the program where memory is touched that is not there, or without order.
Error submit(Stream *stream, Operation operation);

// Where the bytes of an address lie on this host.
template <class T> T *here(uint64_t address) { return reinterpret_cast<T *>(address - FAR); }

// From an address to the end of the memory that it lies in; the program is ended where it lies in none.
size_t bytes_from(uint64_t address, const std::string &who);

// Fails where something was written around the memory that an address lies in.
void check_guards(uint64_t address, const std::string &who);

// The setting of an environment variable GREEDY_STANDIN_<name>.
uint64_t setting(const char *name, uint64_t otherwise);

// Adds to a number of the report that is written when the program ends.
void count(const std::string &what, uint64_t by = 1);

// A drawn number, from a seed of its own for every thread.
uint32_t draw();

} // namespace gpu
